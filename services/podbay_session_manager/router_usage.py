"""How many calls of each account run, and what else routers tell of, by watch. Pure."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["RouterUsage"]


class RouterUsage:
    """The calls that run at each router's worker, for as long as it watches the routes."""

    def __init__(self) -> None:
        self._told: dict[str, Mapping[str, int]] = {}
        self._numbers: dict[str, int] = {}

    def open(self, watch_id: str) -> None:
        """Note a new watch."""
        self._told[watch_id] = {}
        self._numbers[watch_id] = 0

    def close(self, watch_id: str) -> None:
        """Forget what a watch told."""
        self._told.pop(watch_id, None)
        self._numbers.pop(watch_id, None)

    def report(self, watch_id: str, running: Mapping[str, int]) -> None:
        """Note how many calls run by account. A watch that is not known has ended."""
        if watch_id in self._told:
            self._told[watch_id] = dict(running)

    def is_new(self, watch_id: str, number: int) -> bool:
        """Note the number of a list that a watch tells; say whether it has not come before.

        Nothing of a watch that is not known is new: it has ended.
        """
        if number <= self._numbers.get(watch_id, number):
            return False
        self._numbers[watch_id] = number
        return True

    def running(self, account: str) -> int:
        """Return how many calls of an account run at all workers together."""
        return sum(told.get(account, 0) for told in self._told.values())
