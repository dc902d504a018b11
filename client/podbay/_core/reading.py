"""Reading answers."""

from __future__ import annotations

from typing import Any, TypeVar

import pydantic

from podbay._core.operations import Operation, StreamOperation, UploadOperation
from podbay.errors import PodbayError, error_for

__all__ = ["decoded", "decoded_all"]

T = TypeVar("T")


def decoded(operation: Operation[T] | UploadOperation[T], answer: Any) -> T:
    """Return what an answer brings.

    Raises:
        InternalError: It breaks the rules of the interface.
    """
    try:
        return operation.decode(answer)
    except pydantic.ValidationError as error:
        raise _unreadable(operation.what, error) from None


def decoded_all(operation: StreamOperation[T], answer: Any) -> list[T]:
    """Return what one answer of a stream brings.

    Raises:
        InternalError: It breaks the rules of the interface.
    """
    try:
        return operation.decode(answer)
    except pydantic.ValidationError as error:
        raise _unreadable(operation.what, error) from None


def _unreadable(what: str, error: pydantic.ValidationError) -> PodbayError:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    places = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in details[:5])
    return error_for(
        "INTERNAL",
        f"The answer to the attempt to {what} breaks the rules of the interface: {places}. Is the "
        "service of another version than the client?",
    )
