"""Which calls failed, until the session manager was told: by session and reason. Pure.

Only what the router knows of a session is counted for it: calls with a token of this installation
whose signature is good, also where it has expired. What is told holds no body and no token.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from podbay.v1 import errors_pb2
from podbay.v1.session_manager_service_pb2 import FailedCalls as FailedCallsMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from podbay.v1.errors_pb2 import CallError
    from podbay.v1.inference_router_service_pb2 import ClientFailure

__all__ = ["CLIENT_REASONS", "FailedCalls", "Row", "client_failure_fault", "message_of"]

CLIENT_REASONS: Final = frozenset(
    {
        errors_pb2.ERROR_REASON_ADAPTER_FAILED,
        errors_pb2.ERROR_REASON_INVALID_REQUEST,
        errors_pb2.ERROR_REASON_MALFORMED_JSON,
        errors_pb2.ERROR_REASON_BODY_TOO_LARGE,
    }
)
"""What clients may tell of: what fails before a call is sent, or after it was answered."""

# Ends that nobody has to mend: the caller's own, and that of a router, after which clients send
# the call to the next.
_UNTOLD: Final = frozenset(
    {errors_pb2.ERROR_REASON_CANCELLED, errors_pb2.ERROR_REASON_ROUTER_DRAINING}
)
_REPLICAS_WORDS: Final = frozenset({"detail", "location"})
_MOST: Final = 1000
_MOST_AT_ONCE: Final = 100
_MOST_BYTES: Final = 1024
_MOST_ENTRIES: Final = 16
_MOST_CALLS: Final = 1_000_000


class Row:
    """The calls of one session that failed for one reason.

    Attributes:
        session_id: The session.
        reason: The reason.
        count: How many.
        first: When the first of them failed, on the clock of `note`.
        last: When the last of them failed.
        message: What the last of them was told.
        metadata: The evidence of the last of them.
    """

    __slots__ = ("count", "first", "last", "message", "metadata", "reason", "session_id")

    def __init__(
        self, session_id: str, reason: errors_pb2.ErrorReason.ValueType, first: float
    ) -> None:
        self.session_id = session_id
        self.reason = reason
        self.count = 0
        self.first = first
        self.last = first
        self.message = ""
        self.metadata: Mapping[str, str] = {}


class FailedCalls:
    """What is to be told. Where nobody takes it, the rows that were longest untouched are dropped.

    Args:
        clock: Gives seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rows: OrderedDict[tuple[str, int], Row] = OrderedDict()

    @property
    def any(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self._rows)

    def note(self, session_id: str, error: CallError) -> None:
        """Count a call that failed.

        Args:
            session_id: Its session.
            error: Why; kept until it is told, and not to be changed any more.
        """
        if error.reason not in _UNTOLD:
            self._add(session_id, error.reason, 1, error.message, error.metadata)

    def note_client(self, session_id: str, told: ClientFailure) -> None:
        """Count calls that failed at a client.

        Args:
            session_id: The session of the token with which the client tells of them.
            told: What it tells, without a fault.
        """
        self._add(session_id, told.reason, told.count, told.message, dict(told.metadata))

    def take(self) -> Sequence[Row]:
        """Drop and return the rows that wait longest, at most as many as a message holds."""
        some = min(len(self._rows), _MOST_AT_ONCE)
        return [self._rows.popitem(last=False)[1] for _ in range(some)]

    def _add(
        self,
        session_id: str,
        reason: errors_pb2.ErrorReason.ValueType,
        count: int,
        message: str,
        metadata: Mapping[str, str],
    ) -> None:
        now = self._clock()
        key = (session_id, reason)
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= _MOST:
                self._rows.popitem(last=False)
            row = self._rows[key] = Row(session_id, reason, now)
        row.count += count
        row.last = now
        row.message = message
        row.metadata = metadata


def message_of(row: Row, now: float) -> FailedCallsMessage:
    """Return what the session manager is told.

    Args:
        row: The calls.
        now: The time on the clock of `FailedCalls`.
    """
    text, metadata = _without_body(row)
    message = FailedCallsMessage(
        session_id=row.session_id,
        reason=row.reason,
        count=row.count,
        message=_shown(text),
        metadata={
            _shown(key): _shown(value) for key, value in sorted(metadata.items())[:_MOST_ENTRIES]
        },
    )
    message.first_age.FromMilliseconds(round((now - row.first) * 1000))
    message.last_age.FromMilliseconds(round((now - row.last) * 1000))
    return message


def client_failure_fault(told: ClientFailure) -> tuple[str, str] | None:
    """Return the path of a field that breaks a rule, and the rule; None where there is none."""
    if told.reason not in CLIENT_REASONS:
        return "clientFailure.reason", (
            "must be ADAPTER_FAILED, INVALID_REQUEST, MALFORMED_JSON or BODY_TOO_LARGE"
        )
    if not told.message:
        return "clientFailure.message", "is required"
    if len(told.message.encode()) > _MOST_BYTES:
        return "clientFailure.message", f"is longer than {_MOST_BYTES} bytes"
    if len(told.metadata) > _MOST_ENTRIES or any(
        len(key.encode()) + len(value.encode()) > _MOST_BYTES
        for key, value in told.metadata.items()
    ):
        return (
            "clientFailure.metadata",
            f"has more than {_MOST_ENTRIES} entries, or one longer than {_MOST_BYTES} bytes",
        )
    if not 0 < told.count <= _MOST_CALLS:
        return "clientFailure.count", f"must be from 1 to {_MOST_CALLS}"
    return None


def _without_body(row: Row) -> tuple[str, Mapping[str, str]]:
    """Return message and evidence without what a replica says of a body that it refuses.

    Servers quote what they refuse. Of a failure of its own (5xx) the replica's word is what tells
    why.
    """
    status = row.metadata.get("httpStatus", "")
    if not status or status.startswith("5"):
        return row.message, row.metadata
    kept = {key: value for key, value in row.metadata.items() if key not in _REPLICAS_WORDS}
    if row.reason != errors_pb2.ERROR_REASON_REPLICA_REFUSED:
        return row.message, kept  # the message of MALFORMED_JSON is the router's own
    replica = row.metadata.get("replica", "")
    text = (
        f"Replica {replica} answered with HTTP status {status}; only the caller was told what it "
        "said, as it may hold parts of the body."
    )
    return text, kept


def _shown(text: str) -> str:
    """Return a text cut to what is told, without characters that steer a terminal."""
    cut = text.encode()[:_MOST_BYTES].decode(errors="ignore")
    return "".join(one if one.isprintable() or one in "\n\t" else "�" for one in cut)
