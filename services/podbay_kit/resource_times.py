"""Times as the stores keep them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["text_time"]


def text_time(time: datetime) -> str:
    """Return a time as text of fixed length in UTC, which sorts as time does."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")
