"""Who leads among the session managers of one database, as rules over a row. Pure.

The row is held by one process at a time; each holder has a term, a number that grows with every
change of the holder. The holder proves that it lives by raising the row's beat. Nobody compares
the clocks of two machines: the others take the row over when they have seen the same beat for the
length of the lease on their own clocks, and the holder trusts its lease for that length from the
moment at which it *began* its last renewal, on its own clock. As a renewal is seen after it was
begun, the holder's trust ends first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["FREE", "LeaseRow", "Sighting", "may_take", "sight", "takes_at"]

FREE: Final = ""
"""The holder of a row that nobody holds."""

# Quartz clocks differ by less than a thousandth; virtual ones sometimes by more.
_DRIFT: Final = 0.02
_SLACK_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """The row as it was read."""

    term: int
    """Grows by one with each change of the holder; 0 before the first."""
    holder: str
    """The process that holds it; `FREE` where it was given up."""
    address: str
    """Where the holder is reached, as "10.0.0.1:7102"."""
    beat: int
    """Changes with every renewal."""
    seconds: float
    """For how long the holder trusts a renewal."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A row, and since when nothing of it has changed on the clock of the one who looks."""

    row: LeaseRow
    since: float


def sight(before: Sighting | None, row: LeaseRow, now: float) -> Sighting:
    """Return what is known after another look.

    Args:
        before: What was known; None at the first look.
        row: The row as it is now.
        now: When the look was *over*.
    """
    if before is not None and (before.row.term, before.row.beat) == (row.term, row.beat):
        return Sighting(row, before.since)
    return Sighting(row, now)


def takes_at(seen: Sighting) -> float:
    """Return when a row whose holder gives no sign of life may be taken over."""
    return seen.since + seen.row.seconds * (1 + _DRIFT) + _SLACK_SECONDS


def may_take(seen: Sighting, now: float, *, dead: bool) -> bool:
    """Say whether a row may be taken over.

    Args:
        seen: The row, and since when it is as it is.
        now: The time on the same clock.
        dead: Whether it is known that the holder's process has ended.
    """
    return seen.row.holder == FREE or dead or now >= takes_at(seen)
