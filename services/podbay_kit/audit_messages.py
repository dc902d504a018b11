"""Entries of an audit log, and questions about it, as messages."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from podbay.v1 import audit_pb2, errors_pb2
from podbay_kit.audit import AuditRecord
from podbay_kit.audit_store import AuditQuery
from podbay_kit.errors import invalid

__all__ = ["query_of", "record_message"]


def record_message(record: AuditRecord) -> audit_pb2.AuditRecord:
    """Return the message of an entry."""
    message = audit_pb2.AuditRecord(
        id=record.id,
        time=_timestamp(record.time),
        actor_account=record.actor_account,
        actor_token=record.actor_token,
        peer=record.peer,
        method=record.method,
        resource=record.resource,
        account=record.account,
        resource_id=record.resource_id,
        code=record.code,
        reason=errors_pb2.ErrorReason.ValueType(record.reason),
        call_id=record.call_id,
        count=record.count,
        details=record.details,
    )
    if record.first_time is not None:
        message.first_time.CopyFrom(_timestamp(record.first_time))
    return message


def query_of(message: audit_pb2.AuditFilter) -> AuditQuery:
    """Read which entries are asked for.

    Raises:
        ServiceError: INVALID_REQUEST.
    """
    return AuditQuery(
        account=message.account,
        resource=message.resource,
        resource_id=message.resource_id,
        actor=message.actor,
        method=message.method,
        since=_time(message, "since"),
        until=_time(message, "until"),
        failed=message.failed if message.HasField("failed") else None,
    )


def _time(message: audit_pb2.AuditFilter, name: str) -> datetime | None:
    if not message.HasField(name):  # type: ignore[arg-type] # "since" or "until"
        return None
    try:
        time: datetime = getattr(message, name).ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise invalid(f"filter.{name}", "is not a time of the years 1 to 9999") from error
    return time


def _timestamp(time: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(time)
    return message
