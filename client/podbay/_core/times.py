"""Times between Python and the wire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from podbay._core.wire_errors import invalid

__all__ = ["optional_time", "to_timestamp"]


def optional_time(message: Any, field: str) -> datetime | None:
    """Return a message's time in UTC; None where it is not set."""
    if not message.HasField(field):
        return None
    time: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
    return time


def to_timestamp(time: datetime, field: str) -> Timestamp:
    """Return a time as the wire has it.

    Args:
        time: A time with an offset.
        field: What it is called where it is given, for the error.

    Raises:
        InvalidRequestError: The time has no offset.
    """
    if time.tzinfo is None:
        raise invalid(field, "needs an offset, as in 2030-01-01T00:00:00Z")
    stamp = Timestamp()
    stamp.FromDatetime(time.astimezone(UTC).replace(tzinfo=None))
    return stamp
