"""The ends of pages, and times, as messages."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from podbay.v1 import common_pb2
from podbay_kit.errors import invalid

__all__ = ["page_info", "time_of", "timestamp"]


def page_info(next_token: str, revision: int) -> common_pb2.PageInfo:
    """Return the end of a page."""
    return common_pb2.PageInfo(next_page_token=next_token, revision=revision)


def timestamp(time: datetime) -> Timestamp:
    """Return the message of a time."""
    message = Timestamp()
    message.FromDatetime(time)
    return message


def time_of(message: Timestamp, path: str) -> datetime:
    """Read a time.

    Raises:
        ServiceError: INVALID_REQUEST, where it lies outside the years 1 to 9999.
    """
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise invalid(path, "is not a time of the years 1 to 9999") from error
