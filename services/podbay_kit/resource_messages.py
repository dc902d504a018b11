"""Between the messages of resource requests and what services work with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pydantic
from google.protobuf.message import Message

from podbay.schema.requests import (
    InferenceServiceCreateRequest,
    InferenceSessionCreateRequest,
    LocalInferenceServiceCreateRequest,
    ModelCreateRequest,
    check_creatable,
)
from podbay.v1 import common_pb2, errors_pb2
from podbay_kit.errors import ServiceError, from_validation_error, invalid
from podbay_kit.resource_filters import ResourceFilter

__all__ = ["filter_of", "read_creatable", "read_valid"]

CreateRequest = (
    ModelCreateRequest
    | InferenceServiceCreateRequest
    | LocalInferenceServiceCreateRequest
    | InferenceSessionCreateRequest
)

M = TypeVar("M", bound=Message)
T = TypeVar("T")
R = TypeVar("R", bound=CreateRequest)

# A specification is kept with every change of the resource, and lists return hundreds of them.
_MAX_SPECIFICATION_BYTES = 4 << 20


def filter_of(message: common_pb2.ResourceFilter) -> ResourceFilter:
    """Read a filter; what its parts mean is checked where it is compiled."""
    given = {field.name: value for field, value in message.ListFields()}
    return ResourceFilter(
        id=given.get("id"),
        account=given.get("account"),
        status=given.get("status"),
        reason=given.get("reason"),
        name=given.get("name"),
        labels=dict(message.labels),
        model=given.get("model"),
        model_name=given.get("model_name"),
        inference_service=given.get("inference_service"),
        inference_service_name=given.get("inference_service_name"),
        query=given.get("query"),
    )


def read_valid(read: Callable[[M], T], message: M, path: str) -> T:
    """Read a part of a request with a function of `podbay.schema.convert`.

    Args:
        read: The function.
        message: The part.
        path: The part's path in the request, for errors; may be empty.

    Raises:
        ServiceError: INVALID_REQUEST, with the path of every broken rule.
    """
    try:
        return read(message)
    except pydantic.ValidationError as error:
        raise from_validation_error(error, path) from error


def read_creatable(read: Callable[[M], R], message: M, path: str) -> R:
    """Read the specification of a new resource, by the stricter rules of creation.

    Args:
        read: The function of `podbay.schema.convert`.
        message: The specification.
        path: Its path in the request, for errors.

    Raises:
        ServiceError: INVALID_REQUEST, with the path of every broken rule.
    """
    if message.ByteSize() > _MAX_SPECIFICATION_BYTES:
        raise invalid(path, f"is larger than {_MAX_SPECIFICATION_BYTES} bytes")
    request = read_valid(read, message, path)
    problems = [(f"{path}.{field}", rule) for field, rule in check_creatable(request)]
    if problems:
        shown = "; ".join(f"{field}: {rule}" for field, rule in problems[:5])
        raise ServiceError(
            errors_pb2.ERROR_REASON_INVALID_REQUEST,
            f"The request is not valid: {shown}.",
            violations=problems,
        )
    return request
