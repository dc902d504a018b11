"""The time of day can be set, by hours; what waits for a time must wait as long as before. Pure.

Deadlines are stored as times of day, so that they outlive the process. Within a process the clock
that only grows tells when the time of day was set, and what was stored is moved along.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from podbay_session_manager.records import ReplicaRecord

__all__ = ["JumpWatch", "moved_along"]

# Clocks that are set a little all the time are no jump.
_LEAST_JUMP = 2.0


class JumpWatch:
    """Compares the time of day with a clock that only grows."""

    def __init__(self) -> None:
        self._offset: float | None = None

    def jump(self, now: float, monotonic: float) -> float:
        """Return by how many seconds the time of day was set since it was last accepted.

        Args:
            now: The time of day, in seconds since 1970.
            monotonic: The seconds of a clock that only grows.
        """
        if self._offset is None:
            return 0.0
        jump = now - monotonic - self._offset
        return jump if abs(jump) >= _LEAST_JUMP else 0.0

    def accept(self, now: float, monotonic: float) -> None:
        """Take the time of day as right: what was stored has been moved along."""
        self._offset = now - monotonic


def moved_along(replicas: Iterable[ReplicaRecord], jump: float) -> list[ReplicaRecord]:
    """Return those that wait for a time, with that time moved by `jump` seconds."""
    return [
        replace(
            replica,
            deadline=None if replica.deadline is None else replica.deadline + jump,
            retry_at=None if replica.retry_at is None else replica.retry_at + jump,
        )
        for replica in replicas
        if replica.deadline is not None or replica.retry_at is not None
    ]
