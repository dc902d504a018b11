"""How many calls of each account run, as the routers tell. Pure."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["RouterUsage"]


class RouterUsage:
    """The calls that run at each router's worker, for as long as it watches the routes."""

    def __init__(self) -> None:
        self._told: dict[str, Mapping[str, int]] = {}

    def open(self, watch_id: str) -> None:
        """Note a new watch."""
        self._told[watch_id] = {}

    def close(self, watch_id: str) -> None:
        """Forget what a watch told."""
        self._told.pop(watch_id, None)

    def report(self, watch_id: str, running: Mapping[str, int]) -> None:
        """Note how many calls run by account. A watch that is not known has ended."""
        if watch_id in self._told:
            self._told[watch_id] = dict(running)

    def running(self, account: str) -> int:
        """Return how many calls of an account run at all workers together."""
        return sum(told.get(account, 0) for told in self._told.values())
