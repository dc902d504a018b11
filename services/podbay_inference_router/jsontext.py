"""Whether bytes are JSON, and where they stop being it. Pure."""

import json
from typing import Final, NoReturn

__all__ = ["JsonFault", "find_fault", "is_broken", "is_json"]

_FIRST: Final = frozenset(b'{["-0123456789tfn \t\r\n')

_MAX_CHECKED_BYTES: Final = 1 << 20


class _NotANumberError(ValueError):
    """NaN or an infinity, which Python's reader takes and JSON does not know."""


def _refuse_constant(_name: str) -> NoReturn:
    raise _NotANumberError


# Integers are read as floats: the value is not wanted, and int() refuses more than 4300 digits,
# which JSON allows.
_decode = json.JSONDecoder(parse_int=float, parse_constant=_refuse_constant).decode
# Many a server writes NaN, and its readers take it.
_decode_more = json.JSONDecoder(parse_int=float).decode


class JsonFault:
    """Where and why a text is not JSON.

    Attributes:
        line: The line, from 1.
        column: The column in characters, from 1.
        description: What is wrong, without the text itself.
    """

    __slots__ = ("column", "description", "line")

    def __init__(self, line: int, column: int, description: str) -> None:
        self.line = line
        self.column = column
        self.description = description


def is_json(data: bytes) -> bool:
    """Tell whether `data` is one JSON value in UTF-8."""
    if not data or data[0] not in _FIRST:
        return False
    try:
        _decode(data.decode())
    except (ValueError, RecursionError):
        return False
    return True


def is_broken(data: bytes) -> bool:
    """Tell whether `data` is not one JSON value, as where it was cut off; NaN counts as one.

    What is larger than 1 MiB counts as whole: to look would hold up the other calls of the worker.
    """
    if len(data) > _MAX_CHECKED_BYTES:
        return False
    try:
        _decode_more(data.decode("utf-8-sig"))
    except RecursionError:
        return False
    except ValueError:
        return True
    return False


def find_fault(data: bytes) -> JsonFault | None:
    """Find the first place where `data` is not one JSON value in UTF-8.

    Args:
        data: The text.

    Returns:
        The fault, or None where `data` is JSON or nested too deeply to tell.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        line = before.count("\n") + 1
        column = len(before) - before.rfind("\n")
        return JsonFault(line, column, "the bytes are not UTF-8")
    try:
        _decode(text)
    except json.JSONDecodeError as error:
        return JsonFault(error.lineno, error.colno, error.msg)
    except _NotANumberError:
        return JsonFault(1, 1, "NaN and infinities are not JSON")
    except RecursionError:
        return None
    return None
