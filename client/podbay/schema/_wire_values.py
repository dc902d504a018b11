"""Single values on the wire: times, durations, and JSON as text."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

__all__ = [
    "MAX_JSON_DEPTH",
    "WireError",
    "copied",
    "read_duration",
    "read_json",
    "read_time",
    "write_duration",
    "write_json",
    "write_time",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NANOS = 1_000_000_000

MAX_JSON_DEPTH = 128
"""How deep free JSON may be nested."""


class WireError(Exception):
    """A value that has no form on the other side; `path` leads to it from where it is caught."""

    def __init__(self, rule: str, *path: str | int) -> None:
        super().__init__(rule)
        self.rule = rule
        self.path: list[str | int] = list(path)


def copied(value: Any) -> Any:
    """Returns the value itself: it is the same on both sides."""
    return value


def write_time(message: Timestamp, value: datetime) -> None:
    """Writes an aware time."""
    passed = value - _EPOCH
    message.SetInParent()
    message.seconds = passed.days * 86_400 + passed.seconds
    message.nanos = passed.microseconds * 1000


def read_time(message: Timestamp) -> datetime:
    """Returns the time in UTC; what is finer than a microsecond is cut off."""
    if not 0 <= message.nanos < _NANOS:
        raise WireError("is not a time: nanos lie outside 0 to 999,999,999")
    try:
        return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)
    except OverflowError as error:
        raise WireError("is not a time of the years 1 to 9999") from error


def write_duration(message: Duration, value: float) -> None:
    """Writes a number of seconds, rounded to nanoseconds."""
    message.SetInParent()
    message.seconds, message.nanos = divmod(round(value * _NANOS), _NANOS)


def read_duration(message: Duration) -> float:
    """Returns the number of seconds."""
    if not -_NANOS < message.nanos < _NANOS or message.seconds * message.nanos < 0:
        raise WireError("is not a duration: nanos are out of range, or of another sign")
    return (message.seconds * _NANOS + message.nanos) / _NANOS


def write_json(value: dict[str, Any]) -> str:
    """Returns the text of a JSON object; order and kinds of numbers are kept."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        _check_unicode(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise WireError(
            "cannot be written as JSON: it holds NaN or Infinity, values of other types or "
            "characters that are not valid Unicode, or is nested too deeply"
        ) from error
    _check_depth(text, value)
    return text


def read_json(text: str) -> dict[str, Any]:
    """Returns the JSON object of a text."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_read_float)
        if "\\u" in text:
            _check_unicode(json.dumps(value, ensure_ascii=False))
    except (ValueError, RecursionError) as error:
        raise WireError(
            "is not the text of a JSON object: it is malformed, has a number out of range or "
            "characters that are not valid Unicode, or is nested too deeply"
        ) from error
    if not isinstance(value, dict):
        raise WireError("is not the text of a JSON object")
    _check_depth(text, value)
    return value


def _check_unicode(text: str) -> None:
    """Refuses halves of surrogate pairs, which JSON can escape and no UTF-8 can hold."""
    text.encode()


def _check_depth(text: str, value: dict[str, Any]) -> None:
    """Refuses what could be written and then not be read again.

    The models' JSON reader gives up at some 200 levels, those of the resource around included.
    """
    if text.count("{") + text.count("[") <= MAX_JSON_DEPTH:
        return
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise WireError(f"is nested deeper than {MAX_JSON_DEPTH} levels")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _read_float(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError("the number is out of range")
    return value
