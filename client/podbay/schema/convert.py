"""The one place where the JSON interface's models and the messages of `podbay.v1` meet.

Everything converts both ways without loss: lists that are empty and lists that are null, free
JSON, times, and in requests what was set and what was not. What the wire cannot hold, as a count
beyond 32 bits, and what a model refuses raise `pydantic.ValidationError` with the field's path.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeVar, overload

from google.protobuf.message import Message
from pydantic import BaseModel, TypeAdapter, ValidationError

from podbay.schema import platform, requests
from podbay.schema._base import RequestModel
from podbay.schema._common import Labels
from podbay.schema._wire import read_model, refused, write_model
from podbay.schema._wire_values import WireError, read_json, read_time, write_json, write_time
from podbay.schema.nodes import NodeDeclaration
from podbay.schema.serving import ServingOptions
from podbay.v1 import (
    common_pb2,
    inference_service_pb2,
    inference_session_pb2,
    model_pb2,
    session_manager_service_pb2,
)

__all__ = [
    "PAIRS",
    "documentation_edit_from_proto",
    "documentation_edit_to_proto",
    "documentation_from_proto",
    "documentation_to_proto",
    "from_proto",
    "labels_edit_from_proto",
    "labels_edit_to_proto",
    "page_to_proto",
    "query_from_proto",
    "query_to_proto",
    "to_proto",
    "token_request_from_proto",
    "token_request_to_proto",
]

MAX_PAGE_SIZE = 1000

PAIRS: Mapping[type[BaseModel], type[Message]] = {
    platform.Model: model_pb2.Model,
    platform.InferenceService: inference_service_pb2.InferenceService,
    platform.InferenceSession: inference_session_pb2.InferenceSession,
    platform.InferenceSessionAndToken: session_manager_service_pb2.CreateInferenceSessionResponse,
    platform.Status: common_pb2.Status,
    platform.DocumentationBase: common_pb2.Documentation,
    requests.ModelCreateRequest: model_pb2.ModelCreateRequest,
    requests.InferenceServiceCreateRequest: inference_service_pb2.InferenceServiceCreateRequest,
    requests.LocalInferenceServiceCreateRequest: (
        inference_service_pb2.LocalInferenceServiceCreateRequest
    ),
    requests.InferenceSessionCreateRequest: inference_session_pb2.InferenceSessionCreateRequest,
    ServingOptions: inference_service_pb2.ServingOptions,
    NodeDeclaration: inference_session_pb2.NodeDeclaration,
}
"""The models that have a message of their own, with the same fields by their JSON names."""

_MODELS = {message: model for model, message in PAIRS.items()}
_SORT_ORDERS = {
    "ascending": common_pb2.SORT_ORDER_ASCENDING,
    "descending": common_pb2.SORT_ORDER_DESCENDING,
}
_ORDER_NAMES = {number: name for name, number in _SORT_ORDERS.items()}
_LABELS: TypeAdapter[dict[str, str]] = TypeAdapter(Labels)
_QueryT = TypeVar("_QueryT", bound=requests.QueryRequest)
_PAGE_FIELDS = frozenset({"order", "orderBy", "limit", "after"})


@overload
def to_proto(entity: platform.Model) -> model_pb2.Model: ...
@overload
def to_proto(entity: platform.InferenceService) -> inference_service_pb2.InferenceService: ...
@overload
def to_proto(entity: platform.InferenceSession) -> inference_session_pb2.InferenceSession: ...
@overload
def to_proto(
    entity: platform.InferenceSessionAndToken,
) -> session_manager_service_pb2.CreateInferenceSessionResponse: ...
@overload
def to_proto(entity: platform.Status) -> common_pb2.Status: ...
@overload
def to_proto(entity: requests.ModelCreateRequest) -> model_pb2.ModelCreateRequest: ...
@overload
def to_proto(
    entity: requests.InferenceServiceCreateRequest,
) -> inference_service_pb2.InferenceServiceCreateRequest: ...
@overload
def to_proto(
    entity: requests.LocalInferenceServiceCreateRequest,
) -> inference_service_pb2.LocalInferenceServiceCreateRequest: ...
@overload
def to_proto(
    entity: requests.InferenceSessionCreateRequest,
) -> inference_session_pb2.InferenceSessionCreateRequest: ...
@overload
def to_proto(entity: ServingOptions) -> inference_service_pb2.ServingOptions: ...
@overload
def to_proto(entity: NodeDeclaration) -> inference_session_pb2.NodeDeclaration: ...
def to_proto(entity: Any) -> Any:
    """Returns the message of an entity or a request.

    Args:
        entity: An instance of one of the models in `PAIRS`. Of a request only what was set is
            written, as in JSON.

    Raises:
        pydantic.ValidationError: A value has no form on the wire.
        TypeError: The model has no message of its own.
    """
    message_type = PAIRS.get(type(entity))
    if message_type is None:
        raise TypeError(f"{type(entity).__name__} has no message of its own")
    message = message_type()
    write_model(entity, message, only_set=isinstance(entity, RequestModel))
    return message


@overload
def from_proto(message: model_pb2.Model) -> platform.Model: ...
@overload
def from_proto(message: inference_service_pb2.InferenceService) -> platform.InferenceService: ...
@overload
def from_proto(message: inference_session_pb2.InferenceSession) -> platform.InferenceSession: ...
@overload
def from_proto(
    message: session_manager_service_pb2.CreateInferenceSessionResponse,
) -> platform.InferenceSessionAndToken: ...
@overload
def from_proto(message: common_pb2.Status) -> platform.Status: ...
@overload
def from_proto(message: model_pb2.ModelCreateRequest) -> requests.ModelCreateRequest: ...
@overload
def from_proto(
    message: inference_service_pb2.InferenceServiceCreateRequest,
) -> requests.InferenceServiceCreateRequest: ...
@overload
def from_proto(
    message: inference_service_pb2.LocalInferenceServiceCreateRequest,
) -> requests.LocalInferenceServiceCreateRequest: ...
@overload
def from_proto(
    message: inference_session_pb2.InferenceSessionCreateRequest,
) -> requests.InferenceSessionCreateRequest: ...
@overload
def from_proto(message: inference_service_pb2.ServingOptions) -> ServingOptions: ...
@overload
def from_proto(message: inference_session_pb2.NodeDeclaration) -> NodeDeclaration: ...
def from_proto(message: Any) -> Any:
    """Returns the entity or request of a message, checked by all rules of its model.

    Raises:
        pydantic.ValidationError: The message breaks a rule; paths are those of the JSON form.
        TypeError: The message has no model of its own.
    """
    model = _MODELS.get(type(message))
    if model is None:
        raise TypeError(f"{type(message).__name__} has no model of its own")
    return read_model(model, message)


def documentation_to_proto(documentation: platform.DocumentationBase) -> common_pb2.Documentation:
    """Returns the message of documentation; the id that it belongs to is not part of it."""
    message = common_pb2.Documentation()
    own = {name: getattr(documentation, name) for name in platform.DocumentationBase.model_fields}
    write_model(platform.DocumentationBase(**own), message, only_set=False)
    return message


def documentation_from_proto(
    message: common_pb2.Documentation, *, entity: str | None = None
) -> platform.Documentation:
    """Returns documentation, with the id of the resource that it belongs to."""
    base = read_model(platform.DocumentationBase, message)
    return platform.Documentation(**base.model_dump(), entity=entity)


def labels_edit_to_proto(edit: requests.LabelsEditRequest) -> dict[str, common_pb2.LabelChange]:
    """Returns the changes of labels by key; a change without a value removes the label."""
    return {key: common_pb2.LabelChange(value=value) for key, value in edit.labels.items()}


def labels_edit_from_proto(
    changes: Mapping[str, common_pb2.LabelChange],
) -> requests.LabelsEditRequest:
    """Returns the edit of labels.

    Raises:
        pydantic.ValidationError: A key or a value is not of the form of labels.
    """
    labels = {key: item.value if item.HasField("value") else None for key, item in changes.items()}
    return requests.LabelsEditRequest.model_validate({"labels": labels})


def documentation_edit_to_proto(
    edit: requests.DocumentationEditRequest,
) -> common_pb2.DocumentationEdit:
    """Returns the edit of documentation; what is null there is named in `clear`."""
    changes = edit.documentation
    fields = type(changes).model_fields
    for name in fields:
        path = ("documentation", name)
        _sendable(type(edit).__name__, path, getattr(changes, name))
    message = common_pb2.DocumentationEdit(
        title=changes.title, summary=changes.summary, full_page=changes.fullPage
    )
    message.clear.extend(
        name
        for name in fields
        if name in changes.model_fields_set and getattr(changes, name) is None
    )
    return message


def documentation_edit_from_proto(
    message: common_pb2.DocumentationEdit,
) -> requests.DocumentationEditRequest:
    """Returns the edit of documentation.

    Raises:
        pydantic.ValidationError: A text is too long, or `clear` names a field that is not there,
            or that is set as well.
    """
    changes: dict[str, str | None] = {
        field.json_name: value for field, value in message.ListFields() if field.name != "clear"
    }
    for index, name in enumerate(message.clear):
        if name not in requests.DocumentationEdit.model_fields or changes.get(name) is not None:
            raise refused(
                "DocumentationEditRequest",
                ("documentation", "clear", index),
                "names no field of documentation, or one that is set as well",
            )
        changes[name] = None
    return requests.DocumentationEditRequest.model_validate({"documentation": changes})


def query_to_proto(query: requests.QueryRequest) -> common_pb2.ResourceFilter:
    """Returns the filter of a query; `page_to_proto` returns its order and limit.

    Raises:
        pydantic.ValidationError: `labels` is not the text of a JSON object of labels.
    """
    message = common_pb2.ResourceFilter()
    names = {field.json_name: field.name for field in message.DESCRIPTOR.fields}
    for name, value in query.model_dump(exclude={*_PAGE_FIELDS, "labels"}).items():
        setattr(message, names[name], _sendable(type(query).__name__, (name,), value))
    if query.labels is not None:
        message.labels.update(_read_labels(type(query).__name__, query.labels))
    return message


def page_to_proto(query: requests.QueryRequest, page_token: str = "") -> common_pb2.PageRequest:
    """Returns the page of a query: its order, and its limit as far as one page goes.

    A page holds at most 1000 resources: with a larger limit, go on with the next page's token.

    Args:
        query: The query.
        page_token: The token of the page; empty for the first, which begins after `after`.

    Raises:
        pydantic.ValidationError: `after` is not the text of a pair, or there is no `orderBy`.
    """
    after = _read_after(query) if query.after is not None else None
    return common_pb2.PageRequest(
        after=None if page_token else after,
        page_size=min(query.limit or 0, MAX_PAGE_SIZE),
        page_token=page_token,
        order_by=query.orderBy,
        order=_SORT_ORDERS[query.order] if query.order else common_pb2.SORT_ORDER_UNSPECIFIED,
    )


def _read_after(query: requests.QueryRequest) -> common_pb2.PagePosition:
    title = type(query).__name__
    if query.orderBy is None:
        raise refused(title, ("after",), "needs orderBy: it holds a value of that field")
    try:
        pair = json.loads(query.after or "")
    except (ValueError, RecursionError):
        pair = None
    if not (
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
    ):
        rule = "must be a JSON array of two texts: the value of the orderBy field, and the id"
        raise refused(title, ("after",), rule)
    for part in pair:
        _sendable(title, ("after",), part)
    return common_pb2.PagePosition(value=pair[0], id=pair[1])


def query_from_proto(
    kind: type[_QueryT],
    resource_filter: common_pb2.ResourceFilter,
    page: common_pb2.PageRequest | None = None,
) -> _QueryT:
    """Returns the query of a filter and a page; the page's token has no place in it.

    Args:
        kind: The query of the kind of resource that is listed.
        resource_filter: The filter.
        page: The page, where its order and size matter.

    Raises:
        pydantic.ValidationError: The filter has a field that this kind of resource has not, its
            labels are not of their form, or the page's size or order is out of range.
    """
    data: dict[str, Any] = {}
    for field, value in resource_filter.ListFields():
        data[field.json_name] = value
    if "labels" in data:
        data["labels"] = write_json(_check_labels(kind.__name__, dict(data["labels"])))
    if page is not None:
        if page.page_size:
            data["limit"] = page.page_size
        if page.HasField("order_by"):
            data["orderBy"] = page.order_by
        if page.order:
            data["order"] = _ORDER_NAMES.get(page.order, "unknown")
        if page.HasField("after"):
            data["after"] = json.dumps([page.after.value, page.after.id], ensure_ascii=False)
    return kind.model_validate(data)


def _sendable(title: str, path: tuple[str, ...], text: str | None) -> str | None:
    """Returns a text, and refuses one that UTF-8 has no form for."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise refused(title, path, "holds characters that are not valid Unicode") from error
    return text


def _read_labels(title: str, text: str) -> dict[str, str]:
    try:
        labels = read_json(text)
    except WireError as error:
        raise refused(title, ("labels",), error.rule) from error
    return _check_labels(title, labels)


def _check_labels(title: str, labels: dict[str, Any]) -> dict[str, str]:
    try:
        return _LABELS.validate_python(labels)
    except ValidationError as error:
        # The inner error does not know that it is about a member of the query.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise refused(title, ("labels", *first["loc"]), first["msg"]) from error


def token_request_to_proto(
    session_id: str, request: requests.InferenceSessionTokenCreateRequest
) -> session_manager_service_pb2.CreateSessionTokenRequest:
    """Returns the message that asks for another token of a session."""
    message = session_manager_service_pb2.CreateSessionTokenRequest(id=session_id)
    if request.expires is not None:
        write_time(message.expires, request.expires)
    return message


def token_request_from_proto(
    message: session_manager_service_pb2.CreateSessionTokenRequest,
) -> requests.InferenceSessionTokenCreateRequest:
    """Returns the request for a token, without the session's id.

    Raises:
        pydantic.ValidationError: `expires` is not a time.
    """
    if not message.HasField("expires"):
        return requests.InferenceSessionTokenCreateRequest()
    try:
        expires = read_time(message.expires)
    except WireError as error:
        title = "InferenceSessionTokenCreateRequest"
        raise refused(title, ("expires",), error.rule) from error
    return requests.InferenceSessionTokenCreateRequest(expires=expires)
