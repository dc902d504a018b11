"""Reading answers."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import pydantic

from podbay._core.operations import Operation, StreamOperation, UploadOperation
from podbay.errors import PodbayError, error_for

__all__ = ["decoded", "decoded_all"]

T = TypeVar("T")


# gRPC's clock and ours may differ by so much.
_SLACK_SECONDS = 0.05


def decoded(operation: Operation[T] | UploadOperation[T], answer: Any, left: float = math.inf) -> T:
    """Return what an answer brings.

    Args:
        operation: What was asked for.
        answer: The message; None where gRPC tells of success without one. It does so where the
            time is up in the moment in which the answer comes, and where it cannot read it.
        left: How much of the call's time is left, in seconds.

    Raises:
        DeadlineExceededError: There is no message, and the time is up.
        InternalError: The answer breaks the rules of the interface.
    """
    if answer is None:
        if left <= _SLACK_SECONDS:
            raise error_for(
                "DEADLINE_EXCEEDED",
                f"The time was up as the answer to the attempt to {operation.what} came, and the "
                "answer is lost.",
            )
        raise _no_message(operation.what)
    try:
        return operation.decode(answer)
    except pydantic.ValidationError as error:
        raise _unreadable(operation.what, error) from None


def decoded_all(operation: StreamOperation[T], answer: Any) -> list[T]:
    """Return what one answer of a stream brings.

    Raises:
        InternalError: It breaks the rules of the interface.
    """
    if answer is None:
        raise _no_message(operation.what)
    try:
        return operation.decode(answer)
    except pydantic.ValidationError as error:
        raise _unreadable(operation.what, error) from None


def _no_message(what: str) -> PodbayError:
    return error_for(
        "INTERNAL",
        f"The answer to the attempt to {what} is no message that can be read. Is the service of "
        "another version than the client, or is something in between?",
    )


def _unreadable(what: str, error: pydantic.ValidationError) -> PodbayError:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    places = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in details[:5])
    return error_for(
        "INTERNAL",
        f"The answer to the attempt to {what} breaks the rules of the interface: {places}. Is the "
        "service of another version than the client?",
    )
