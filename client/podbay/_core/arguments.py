"""Checks of arguments that the wire would refuse in words of its own."""

from __future__ import annotations

from typing import Any, Final

from podbay._core.wire_errors import invalid

__all__ = ["revision", "text"]

_MAX_REVISION: Final = 2**63 - 1


def text(value: Any, field: str) -> str:
    """Return a text that can be sent.

    Args:
        value: What was given.
        field: What it is called where it was given, for the error.

    Raises:
        InvalidRequestError: It is no text, or holds half of a character.
    """
    if not isinstance(value, str):
        raise invalid(field, "must be a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise invalid(field, "holds a lone surrogate") from None
    return value


def revision(value: Any, field: str) -> int:
    """Return a revision that can be sent.

    Raises:
        InvalidRequestError: It is no number from 0 on, or too large.
    """
    if not isinstance(value, int) or not 0 <= value <= _MAX_REVISION:
        raise invalid(field, "must be a revision: 0, or what a list or a change tells")
    return value
