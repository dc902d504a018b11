"""Reading logs over lost connections: every line once."""

from __future__ import annotations

from typing import Final

from podbay._core.arguments import text
from podbay._core.operations import Service, StreamOperation
from podbay._core.times import optional_time
from podbay._core.wire_errors import invalid
from podbay.types import LogLine
from podbay.v1 import inference_session_pb2
from podbay.v1 import session_manager_service_pb2 as sessions

__all__ = ["MAX_TAIL", "LogReading", "Position"]

MAX_TAIL: Final = 2**31 - 1

Position = tuple[str, int]
"""A replica, and where its log is to be read on."""


class LogReading:
    """Where a reader of a session's logs is.

    Args:
        session_id: The session.
        replica: Only this replica.
        tail: Only the last lines of each replica.
        follow: Whether to go on with lines as they are written.

    Raises:
        InvalidRequestError: `tail` is out of range.
    """

    def __init__(
        self, session_id: str, replica: str | None, tail: int | None, *, follow: bool
    ) -> None:
        if tail is not None and not 0 <= tail <= MAX_TAIL:
            raise invalid("tail", f"must be 0 to {MAX_TAIL}")
        self._request = sessions.StreamInferenceSessionLogsRequest(
            id=text(session_id, "session_id"),
            replica_id=None if replica is None else text(replica, "replica"),
            tail=tail,
            follow=follow,
        )
        self._positions: dict[str, int] = {}

    def operation(self) -> StreamOperation[LogLine | Position]:
        """Return the RPC that goes on after what was taken."""
        request = sessions.StreamInferenceSessionLogsRequest()
        request.CopyFrom(self._request)
        for replica_id, offset in self._positions.items():
            request.positions.add(replica_id=replica_id, offset=offset)
        return StreamOperation(
            service=Service.SESSION_MANAGER,
            method="StreamInferenceSessionLogs",
            what="read the session's logs",
            request=request,
            response=sessions.StreamInferenceSessionLogsResponse,
            decode=_decode,
        )

    def took(self, came: LogLine | Position) -> LogLine | None:
        """Note what came; return it where it is a line."""
        if isinstance(came, LogLine):
            self._positions[came.replica_id] = came.offset
            return came
        replica_id, offset = came
        self._positions[replica_id] = offset
        return None


def _decode(answer: sessions.StreamInferenceSessionLogsResponse) -> list[LogLine | Position]:
    positions: list[LogLine | Position] = [
        (position.replica_id, position.offset) for position in answer.positions
    ]
    return positions + [_line(line) for line in answer.lines]


def _line(line: inference_session_pb2.LogLine) -> LogLine:
    return LogLine(line.replica_id, line.text, line.offset, optional_time(line, "time"))
