"""Durations and times as people type them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click

__all__ = ["duration_option", "expiry", "expiry_option", "parse_duration"]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration(text: str) -> float:
    """Return the seconds that a text as "90s", "1h30m" or "2d" means.

    Raises:
        ValueError: It is no such text.
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is no duration; write for example 90s, 15m, 1h30m or 2d")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def expiry(text: str, now: datetime) -> datetime:
    """Return the time that a duration from now, or a time in RFC 3339, means.

    Args:
        text: As "1h", or "2030-01-01T00:00:00Z".
        now: The time that durations start at.

    Raises:
        ValueError: It is neither, is a time without an offset, or lies in the past.
    """
    try:
        when = now + timedelta(seconds=parse_duration(text))
    except OverflowError:
        raise ValueError(f"{text!r} is too long; leave the option out for no expiry") from None
    except ValueError:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                f"{text!r} is neither a duration as 1h30m nor a time as 2030-01-01T00:00:00Z"
            ) from None
        if when.tzinfo is None:
            raise ValueError(
                f"{text!r} says no offset; write {text}Z for UTC, or {text}+02:00"
            ) from None
    if when <= now:
        raise ValueError(f"{text!r} is not in the future")
    return when.astimezone(UTC)


def duration_option(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    """Read an option's duration into seconds; a callback of click.

    Raises:
        click.BadParameter: It is no duration.
    """
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=ctx, param=parameter) from error


def expiry_option(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> datetime | None:
    """Read an option's duration from now, or its time, into a time; a callback of click.

    Raises:
        click.BadParameter: It is neither, or has passed.
    """
    try:
        return None if value is None else expiry(value, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=ctx, param=parameter) from error
