"""Which calls of sessions failed lately, as routers tell. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from google.protobuf.duration_pb2 import Duration

from podbay.v1 import errors_pb2
from podbay.v1 import session_manager_service_pb2 as pb

__all__ = ["CallFailures", "FailedCall"]

_MOST: Final = 4096
_LATELY_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class FailedCall:
    """Calls of one session that failed for one reason.

    Attributes:
        reason: The reason.
        count: How many calls.
        first: When the first of them failed, in seconds since 1970.
        last: When the last of them failed, likewise.
        told: When a router told of it last, on a clock that only grows.
        message: What the last of them was told.
        metadata: The evidence of the last of them.
    """

    reason: errors_pb2.ErrorReason.ValueType
    count: int
    first: float
    last: float
    told: float
    message: str
    metadata: dict[str, str] = field(default_factory=dict)


class CallFailures:
    """What routers told, by session and reason, until it is an hour old.

    It is kept in memory, for as long as this session manager leads: it is evidence of what is
    going on, not a record. Where there is more than may be kept, what was told of longest ago goes.
    """

    def __init__(self) -> None:
        self._by_session: dict[str, dict[int, FailedCall]] = {}
        # All of them, those that were told of longest ago first.
        self._order: OrderedDict[tuple[str, int], None] = OrderedDict()

    def take(self, told: pb.FailedCalls, now: float, monotonic: float) -> None:
        """Add what a router tells.

        Args:
            told: Calls that failed and were not told of before.
            now: The time of day, in seconds since 1970.
            monotonic: The seconds of a clock that only grows.
        """
        if told.count <= 0:
            return
        self._drop_old(monotonic)
        of_session = self._by_session.setdefault(told.session_id, {})
        known = of_session.get(told.reason)
        first, last = (now - _seconds(age) for age in (told.first_age, told.last_age))
        new = FailedCall(
            told.reason, told.count, first, last, monotonic, told.message, dict(told.metadata)
        )
        if known is not None:
            newest = new if last >= known.last else known
            new = replace(
                newest,
                count=known.count + told.count,
                first=min(first, known.first),
                told=monotonic,
            )
        of_session[told.reason] = new
        key = (told.session_id, int(told.reason))
        self._order[key] = None
        self._order.move_to_end(key)
        if len(self._order) > _MOST:
            self._drop(next(iter(self._order)))

    def of(self, session_id: str, monotonic: float) -> Sequence[FailedCall]:
        """Return what failed of a session, the last one first.

        Args:
            session_id: The session.
            monotonic: The seconds of the clock that `take` is told.
        """
        self._drop_old(monotonic)
        known = self._by_session.get(session_id, {}).values()
        return sorted(known, key=lambda one: one.last, reverse=True)

    def _drop_old(self, monotonic: float) -> None:
        while self._order:
            oldest = next(iter(self._order))
            if self._by_session[oldest[0]][oldest[1]].told > monotonic - _LATELY_SECONDS:
                return
            self._drop(oldest)

    def _drop(self, key: tuple[str, int]) -> None:
        del self._order[key]
        of_session = self._by_session[key[0]]
        del of_session[key[1]]
        if not of_session:
            del self._by_session[key[0]]


def _seconds(age: Duration) -> float:
    return max(0.0, age.ToMilliseconds() / 1000)
