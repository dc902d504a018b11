"""Between google.protobuf.Value, as people type it, and JSON text. Pure."""

import json
import math
from typing import Any, Final

from google.protobuf.struct_pb2 import Value

__all__ = ["ValueFormError", "from_json", "to_json"]

# protobuf refuses messages nested more than 100 deep, and one level of JSON takes three.
_MAX_DEPTH: Final = 30
_EXACT: Final = 2.0**53
_TOO_DEEP: Final = f"it is nested more than {_MAX_DEPTH} levels deep"
_NO_NUMBER: Final = "it holds a number that a value cannot be: NaN, infinite, or too large"


class ValueFormError(ValueError):
    """A value has no JSON form, or JSON text has no form as a value. The text holds no data."""


def to_json(value: Value) -> bytes:
    """Write a value as JSON text; integral numbers as integers.

    Args:
        value: The value.

    Returns:
        UTF-8 text.

    Raises:
        ValueFormError: A number is not finite, or a value is of no kind.
    """
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":")).encode()


def from_json(text: bytes) -> Value:
    """Read JSON text as a value. Integers above 2^53 lose digits.

    Args:
        text: UTF-8 text.

    Returns:
        The value.

    Raises:
        ValueFormError: The text is not JSON, nested too deeply for a value, or holds a number that
            no value can be: protobuf's JSON has neither NaN nor infinities.
    """
    value = Value()
    try:
        _fill(value, json.loads(text), 0)
    except ValueFormError:
        raise
    except RecursionError as error:
        raise ValueFormError(_TOO_DEEP) from error
    except OverflowError as error:
        raise ValueFormError(_NO_NUMBER) from error
    except ValueError as error:
        raise ValueFormError("it is not JSON") from error
    return value


def _plain(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return {key: _plain(item) for key, item in value.struct_value.fields.items()}
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case "string_value":
            return value.string_value
        case "number_value":
            return _number(value.number_value)
        case "bool_value":
            return value.bool_value
        case "null_value":
            return None
        case _:
            raise ValueFormError("a value is of no kind")


def _number(number: float) -> int | float:
    if not math.isfinite(number):
        raise ValueFormError("a number is NaN or infinite, which JSON does not know")
    return int(number) if number.is_integer() and abs(number) <= _EXACT else number


def _fill(value: Value, item: Any, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueFormError(_TOO_DEEP)
    if item is None:
        value.null_value = 0  # type: ignore[assignment]  # the only member of NullValue
    elif isinstance(item, bool):
        value.bool_value = item
    elif isinstance(item, int | float):
        value.number_value = number = float(item)
        if not math.isfinite(number):
            raise ValueFormError(_NO_NUMBER)
    elif isinstance(item, str):
        # A lone surrogate is legal in JSON text and has no UTF-8 form.
        value.string_value = item.encode(errors="replace").decode()
    elif isinstance(item, dict):
        fields = value.struct_value.fields
        value.struct_value.SetInParent()
        for key, member in item.items():
            _fill(fields[key.encode(errors="replace").decode()], member, depth + 1)
    else:
        value.list_value.SetInParent()
        for member in item:
            _fill(value.list_value.values.add(), member, depth + 1)
