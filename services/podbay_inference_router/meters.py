"""What a worker counts of its calls, as plain numbers. Pure: how they are shown is elsewhere."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from podbay.v1.errors_pb2 import CallError
    from podbay_inference_router.calls import Call
    from podbay_inference_router.table import RouteTable

__all__ = ["BOUNDS", "Histogram", "Meters", "Numbers", "gauges", "merged"]

BOUNDS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    300,
)
"""The upper ends of the histograms' buckets, in seconds; the last bucket has none."""

Numbers = dict[str, Any]
"""A worker's numbers in a form that JSON can carry."""


class Histogram:
    """How long things took."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds


class Meters:
    """The counters of one worker.

    Attributes:
        requests: Calls that have ended, well or not, and those that were refused unread; a stream
            that is refused counts as one.
        errors: Those that failed, by the number of their reason.
        latency: How long calls took from their arrival to their end, in seconds.
        first_piece: How long streamed calls took to their first piece.
        queue: How long calls waited that had to.
        repeats: Calls that were sent again after a connection was lost.
        hedges: Calls that were sent to a second replica because the first one was slow.
        reconnects: Calls that moved on from a replica that could not be connected to.
        set_asides: How often a replica was set aside.
    """

    __slots__ = (
        "errors",
        "first_piece",
        "hedges",
        "latency",
        "queue",
        "reconnects",
        "repeats",
        "requests",
        "set_asides",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.errors: Counter[int] = Counter()
        self.latency = Histogram()
        self.first_piece = Histogram()
        self.queue = Histogram()
        self.repeats = 0
        self.hedges = 0
        self.reconnects = 0
        self.set_asides = 0

    def done(self, call: Call, error: CallError | None, now: float) -> None:
        """Count a call that has ended.

        Args:
            call: The call.
            error: Why it failed, if it did.
            now: The time on the clock of `Call.began`.
        """
        self.requests += 1
        if error is not None:
            self.errors[error.reason] += 1
        if call.began:
            self.latency.add(now - call.began)
            if call.first_piece_at:
                self.first_piece.add(call.first_piece_at - call.began)

    def refused(self, reason: int) -> None:
        """Count a call, or a stream of them, that was refused before it became one."""
        self.requests += 1
        self.errors[reason] += 1

    def spoiled(self, reason: int) -> None:
        """Count that a call that ended well has failed after all."""
        self.errors[reason] += 1

    def numbers(self) -> Numbers:
        """Return the counters."""
        # Who only adds up what workers count has no need of gRPC's codes.
        from podbay_kit.errors import reason_name  # noqa: PLC0415 # heavy

        return {
            "requests": self.requests,
            "errors": {reason_name(reason): count for reason, count in self.errors.items()},
            "latency": _numbers(self.latency),
            "first_piece": _numbers(self.first_piece),
            "queue": _numbers(self.queue),
            "repeats": self.repeats,
            "hedges": self.hedges,
            "reconnects": self.reconnects,
            "set_asides": self.set_asides,
        }


def gauges(table: RouteTable, active: int) -> Numbers:
    """Return how things stand at this moment: what waits and runs, and where.

    Args:
        table: The routes.
        active: How many calls have not ended.
    """
    sessions = table.sessions()
    return {
        "active": active,
        "synced": int(table.synced),
        "waiting": {session.session_id: len(session.waiting) for session in sessions},
        "outstanding": {
            f"{session.session_id} {endpoint.replica_id}": endpoint.outstanding
            for session in sessions
            for endpoint in session.endpoints
        },
        "set_aside": {
            f"{session.session_id} {endpoint.replica_id}": int(endpoint.asides > 0)
            for session in sessions
            for endpoint in session.endpoints
        },
    }


def merged(parts: list[Numbers]) -> Numbers:
    """Add the numbers of several workers."""
    total: Numbers = {}
    for part in parts:
        for name, value in part.items():
            total[name] = _sum(total[name], value) if name in total else value
    return total


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        return {
            key: _sum(one[key], other[key])
            if key in one and key in other
            else {**one, **other}[key]
            for key in {**one, **other}
        }
    if isinstance(one, list):
        return [left + right for left, right in zip(one, other, strict=True)]
    return one + other


def _numbers(histogram: Histogram) -> Numbers:
    return {"counts": list(histogram.counts), "sum": histogram.sum}
