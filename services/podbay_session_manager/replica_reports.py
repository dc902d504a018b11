"""What routers tell of replicas whose calls fail although their probes are answered. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from podbay.v1 import session_manager_service_pb2 as pb
from podbay_session_manager.plan_input import FailingReplica

__all__ = ["ReplicaReports"]

_MOST: Final = 10_000
_DETAIL_CHARACTERS: Final = 1000


class ReplicaReports:
    """The last report of each replica, until it recovers or ends.

    They are kept in memory: routers tell them again while the calls fail.
    """

    def __init__(self) -> None:
        self._failing: OrderedDict[str, FailingReplica] = OrderedDict()

    def as_of(self, now: float, monotonic: float) -> Mapping[str, FailingReplica]:
        """Return those whose calls fail, by id, with times of day.

        Args:
            now: The time of day, in seconds since 1970; it may have been set meanwhile.
            monotonic: The seconds of the clock that `take` is told.
        """
        offset = now - monotonic
        return {
            replica: replace(known, since=known.since + offset, told=known.told + offset)
            for replica, known in self._failing.items()
        }

    def take(self, report: pb.ReportReplicaRequest, monotonic: float) -> bool:
        """Take a report; say whether it changes what is shown.

        Args:
            report: What a router tells.
            monotonic: The seconds of a clock that only grows.
        """
        if report.failures <= 0:
            return self.forget(report.replica_id)
        text = _text(report)
        known = self._failing.get(report.replica_id)
        changed = known is None or known.message != text
        self._failing[report.replica_id] = FailingReplica(
            since=monotonic if known is None else known.since,
            told=monotonic,
            message=text,
            set_aside=report.set_aside,
        )
        self._failing.move_to_end(report.replica_id)
        if len(self._failing) > _MOST:
            self._failing.popitem(last=False)
        return changed

    def forget(self, replica_id: str) -> bool:
        """Drop what is known of a replica; say whether there was anything."""
        return self._failing.pop(replica_id, None) is not None

    def failing(self, replica_id: str) -> str:
        """Return how the calls of a replica fail, for people; "" where they do not."""
        known = self._failing.get(replica_id)
        return "" if known is None else known.message


def _text(report: pb.ReportReplicaRequest) -> str:
    status = f" with HTTP status {report.http_status}" if report.http_status else ""
    aside = (
        "Routers leave it alone and try it now and then"
        if report.set_aside
        else "Routers go on calling it, as no other replica is healthy"
    )
    detail = report.detail[:_DETAIL_CHARACTERS].strip().rstrip(".")
    return (
        f"The replica answers its probe, and its last {report.failures} calls failed in a row, the "
        f"last one{status}: {detail or 'without a text'}. {aside}. Its log may tell why."
    )
