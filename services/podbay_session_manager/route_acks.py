"""Which revision of the routes all routers serve by. Pure.

A session is reported as ready only when every router that watches has said that it serves by the
route with the ready replica: then the next call succeeds. A router that owes its word for long is
considered away; it must not hold up everybody.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RouteAcks"]

_AWAY_SECONDS = 2.0
# Routers look for a session manager that is away about once a second, and are slow on a busy
# machine. Those that are still not there then are taken for gone.
_RECONNECT_SECONDS = 10.0


@dataclass(slots=True)
class _Watch:
    acknowledged: int
    owes_since: float | None
    """Since when there are revisions that it has not acknowledged; None while there are none."""


class RouteAcks:
    """The watches of routers and how far each is. Times are seconds of any clock.

    Args:
        away_after: Seconds without an expected word after which a router is considered away.
    """

    def __init__(self, away_after: float = _AWAY_SECONDS) -> None:
        self._away_after = away_after
        self._watches: dict[str, _Watch] = {}
        self._expecting_until: float | None = None

    def expect_reconnects(self, now: float) -> None:
        """Wait a while for routers that watched an earlier session manager.

        Nothing is settled before the first is there, and a moment for the others has passed.
        """
        self._expecting_until = now + _RECONNECT_SECONDS

    def open(self, watch_id: str, now: float) -> None:
        """Note a new watch; it owes its first word."""
        self._watches[watch_id] = _Watch(0, now)
        if self._expecting_until is not None:
            self._expecting_until = min(self._expecting_until, now + self._away_after)

    def close(self, watch_id: str) -> None:
        """Note that a watch has ended."""
        self._watches.pop(watch_id, None)

    def publish(self, now: float) -> None:
        """Note that there is a new revision, which all watches now owe."""
        for watch in self._watches.values():
            if watch.owes_since is None:
                watch.owes_since = now

    def acknowledge(self, watch_id: str, revision: int, latest: int, now: float) -> None:
        """Note how far a router is. A watch that is not known has ended, and does not matter.

        Args:
            watch_id: The watch.
            revision: The revision that it serves by.
            latest: The newest revision that there is.
            now: The time.
        """
        watch = self._watches.get(watch_id)
        if watch is None or revision <= watch.acknowledged:
            return
        watch.acknowledged = min(revision, latest)
        watch.owes_since = None if watch.acknowledged >= latest else now

    def settled(self, revision: int, now: float) -> bool:
        """Say whether every router that is there serves by this revision or a later one."""
        if self._expecting_until is not None and now < self._expecting_until:
            return False
        return self.heard(revision, now)

    def heard(self, revision: int, now: float) -> bool:
        """Say the same of the routers that watch now, whoever else may be expected."""
        return all(
            watch.acknowledged >= revision or self._is_away(watch, now)
            for watch in self._watches.values()
        )

    def unanimous(self, revision: int, now: float) -> bool:
        """Say whether every router that watches serves by this revision, none left out."""
        if self._expecting_until is not None and now < self._expecting_until:
            return False
        return all(watch.acknowledged >= revision for watch in self._watches.values())

    def next_change(self, now: float) -> float | None:
        """Return when the next router that owes its word will be considered away."""
        times = [
            watch.owes_since + self._away_after
            for watch in self._watches.values()
            if watch.owes_since is not None and not self._is_away(watch, now)
        ]
        if self._expecting_until is not None and now < self._expecting_until:
            times.append(self._expecting_until)
        return min(times, default=None)

    def _is_away(self, watch: _Watch, now: float) -> bool:
        return watch.owes_since is not None and now - watch.owes_since >= self._away_after
