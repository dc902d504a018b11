"""JSON as the standard library reads and writes it, sooner where texts are long.

A body of an inference is often one long text and little else, and the standard library looks at
each of its characters. pydantic's parser and writer do that several times faster. They are used
where the outcome is the same, to the byte, and the standard library everywhere else: it decides
what is JSON, and its exceptions are those that come out.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from typing import Any, Final

__all__ = ["loads", "quick_dumps"]

# Below this many bytes there is little to gain.
_LONG: Final = 512
# So many parts of a value are looked at, which costs less than the standard library would.
_MOST_PARTS: Final = 64
_INT_BITS: Final = 63

_begun = threading.Lock()


def loads(text: bytes) -> Any:
    """Read JSON; the same as `json.loads`.

    Args:
        text: In UTF-8, -16 or -32.

    Raises:
        json.JSONDecodeError: It is not JSON.
        UnicodeDecodeError: It is in none of these encodings.
        ValueError: An integer has more digits than Python converts.
        RecursionError: It is nested too deeply.
    """
    if len(text) >= _LONG and (native := _native()) is not None:
        # What it refuses is not JSON, or what only the standard library takes, as half of a
        # surrogate pair: that decides, and says what is wrong.
        with contextlib.suppress(ValueError):
            return native.from_json(text, cache_strings="keys")
    return json.loads(text)


def quick_dumps(value: object) -> bytes | None:
    """Write a value of few parts and long ASCII texts as compact JSON; None for any other.

    The same bytes as the standard library writes without spaces. Numbers with a fraction are left
    to it, as it writes them differently, and so is what may refer to itself or is no JSON.
    """
    if _is_quick(value) and (native := _native()) is not None:
        written: bytes = native.to_json(value)
        return written
    return None


def _is_quick(value: object) -> bool:
    length = 0
    left: list[Any] = [value]
    for part in left:  # grows meanwhile
        kind = type(part)
        if kind is dict or kind is list:
            if len(left) + len(part) > _MOST_PARTS:
                return False
            if kind is dict:
                if not all(type(key) is str and key.isascii() for key in part):
                    return False
                part = part.values()  # noqa: PLW2901 - the texts that are written after the keys
            left.extend(part)
        elif kind is str:
            if not part.isascii():
                return False
            length += len(part)
        elif not (part is None or kind is bool or (kind is int and _is_short(part))):
            return False
    return length >= _LONG


def _is_short(number: int) -> bool:
    return number.bit_length() <= _INT_BITS


def _native() -> Any:
    """Return pydantic's module; None until it is imported, which nobody waits for.

    A replica is up sooner without it, and may never need it.
    """
    module = sys.modules.get("pydantic_core")
    if module is not None and hasattr(module, "to_json"):
        return module
    if _begun.acquire(blocking=False):  # never released: once is enough
        threading.Thread(target=_import, name="podbay-json", daemon=True).start()
    return None


def _import() -> None:
    import pydantic_core  # noqa: F401, PLC0415 - what it is for is that it is there
