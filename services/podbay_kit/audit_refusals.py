"""Which refusals get an entry of their own, and how the others are counted. Pure.

Refusals cost a caller nothing, so that a flood of them must not fill the log: a few are written
one by one, and of what comes faster only the numbers, once a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from podbay_kit.audit import AuditRecord

__all__ = ["RefusalMeter"]

_KINDS: Final = 100


@dataclass(frozen=True, slots=True)
class _Key:
    method: str
    code: int
    reason: int
    actor_account: str
    actor_token: str
    host: str


_OTHERS: Final = _Key("", 0, 0, "", "", "")


@dataclass(slots=True)
class _Sum:
    first: datetime
    last: AuditRecord
    count: int


class RefusalMeter:
    """Lets a few refusals through, and sums up the others.

    Args:
        burst: How many may come at once.
        per_second: How many may come for long.
        kinds: How many kinds of refusals are summed up by themselves; the rest together.
    """

    def __init__(self, burst: int = 100, per_second: float = 1.0, *, kinds: int = _KINDS) -> None:
        self._burst = burst
        self._per_second = per_second
        self._kinds = kinds
        self._left = float(burst)
        self._at: float | None = None
        self._sums: dict[_Key, _Sum] = {}

    def admits(self, monotonic: float) -> bool:
        """Say whether a refusal gets an entry of its own now, and count that."""
        if self._at is not None:
            gained = (monotonic - self._at) * self._per_second
            self._left = min(float(self._burst), self._left + max(0.0, gained))
        self._at = monotonic
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def count(self, record: AuditRecord) -> None:
        """Count a refusal that gets no entry of its own, or a sum that could not be written."""
        if record.first_time is None:
            first, host = record.time, record.peer.rpartition(":")[0]
        else:  # a sum, whose calls came from several ports
            first, host = record.first_time, record.peer
        key = _Key(
            record.method,
            record.code,
            record.reason,
            record.actor_account,
            record.actor_token,
            host,
        )
        # Each call has a method, and only a sum of several kinds has none.
        if not record.method or (key not in self._sums and len(self._sums) >= self._kinds):
            key = _OTHERS
        known = self._sums.get(key)
        if known is None:
            self._sums[key] = _Sum(first, record, record.count)
        else:
            known.first = min(known.first, first)
            known.last = max(known.last, record, key=lambda each: each.time)
            known.count += record.count

    def take(self) -> Sequence[AuditRecord]:
        """Return an entry for each kind of refusals that were counted since the last time."""
        sums, self._sums = self._sums, {}
        found: list[AuditRecord] = []
        for key, each in sums.items():
            # What differs among the calls is left out.
            summed = AuditRecord(
                id=each.last.id,
                time=each.last.time,
                actor_account=key.actor_account,
                actor_token=key.actor_token,
                peer=key.host,
                method=key.method,
                code=each.last.code,
                reason=each.last.reason if key != _OTHERS else 0,
                count=each.count,
                first_time=each.first,
            )
            if key == _OTHERS:
                summed = replace(summed, details={"summary": "refusals of several kinds"})
            found.append(summed)
        return found
