"""Models, inference services and sessions: what is the same for all of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Generic, TypeVar

import pydantic

from podbay._core.arguments import revision, text
from podbay._core.filters import query_arguments
from podbay._core.foreign import plain_form
from podbay._core.operations import Operation, Page, Service, StreamOperation
from podbay._core.wire_errors import from_validation_error, invalid
from podbay.schema import convert, platform, requests
from podbay.types import Change
from podbay.v1 import common_pb2
from podbay.v1 import registry_service_pb2 as registry
from podbay.v1 import session_manager_service_pb2 as sessions

__all__ = ["ACCESS_LABEL", "MODELS", "SERVICES", "SESSIONS", "Resource", "access_labels", "read"]

T = TypeVar("T")
M = TypeVar("M", bound=pydantic.BaseModel)

ACCESS_LABEL: Final = "dyff.io/access"
"""The platform's label for who may see a resource."""

_ACCESS: Final[Mapping[str, str | None]] = {
    "public": "public",
    "preview": "internal",
    "private": None,
}


def read(kind: type[M], value: Any, what: str) -> M:
    """Return a request of a model, out of an instance, a mapping, or another package's instance.

    Args:
        kind: The model.
        value: What was given.
        what: What it is, for the error, as "The model".

    Raises:
        InvalidRequestError: It breaks a rule of the model.
    """
    if type(value) is kind:
        return value
    given = plain_form(value, what)
    if isinstance(given, pydantic.BaseModel):
        # Of a subclass, or of another of our own models: what counts is the JSON form.
        given = given.model_dump(mode="json", by_alias=True, exclude_unset=True)
    try:
        return kind.model_validate(given)
    except pydantic.ValidationError as error:
        raise from_validation_error(error, what) from None


def converted(convert_one: Callable[[Any], Any], value: Any, what: str) -> Any:
    """Return the message of a model that was read.

    Raises:
        InvalidRequestError: A value has no form on the wire.
    """
    try:
        return convert_one(value)
    except pydantic.ValidationError as error:
        raise from_validation_error(error, what) from None


def new_request_id() -> str:
    """Return an id that makes a create safe to send again."""
    return uuid.uuid4().hex


def access_labels(access: str) -> dict[str, str | None]:
    """Return the change of labels that publishes a resource.

    Args:
        access: "public", "preview" or "private".

    Raises:
        InvalidRequestError: It is none of these.
    """
    if access not in _ACCESS:
        raise invalid("access", 'must be "public", "preview" or "private"')
    return {ACCESS_LABEL: _ACCESS[access]}


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """A kind of resource, and the RPCs that it has.

    Attributes:
        service: Who keeps it.
        module: The generated module of that service.
        name: The name in RPCs, as "InferenceService".
        field: The name of the field that holds one, as "inference_service".
        noun: What people call it, with its article.
        query_type: The query request.
    """

    service: Service
    module: ModuleType
    name: str
    field: str
    noun: str
    query_type: type[requests.QueryRequest]

    def get(self, resource_id: str) -> Operation[T]:
        """Ask for one."""
        return self._operation("Get", "", f"get the {self.noun}", id=resource_id)

    def documentation(self, resource_id: str) -> Operation[platform.Documentation]:
        """Ask for the documentation of one."""

        def decode(answer: Any) -> platform.Documentation:
            metadata = getattr(answer, self.field).metadata
            return convert.documentation_from_proto(metadata.documentation, entity=resource_id)

        what = f"get the documentation of the {self.noun}"
        return self._operation("Get", "", what, decode, id=resource_id)

    def delete(self, resource_id: str) -> Operation[platform.Status]:
        """Mark one as deleted."""
        return self._operation("Delete", "", f"delete the {self.noun}", _status, id=resource_id)

    def label(self, resource_id: str, labels: Mapping[str, str | None]) -> Operation[None]:
        """Change labels; null removes one."""
        edit = read(requests.LabelsEditRequest, {"labels": labels}, "The change of labels")
        return self._operation(
            "Label",
            "",
            f"label the {self.noun}",
            lambda _answer: None,
            id=resource_id,
            labels=convert.labels_edit_to_proto(edit),
        )

    def edit_documentation(
        self, resource_id: str, edit: requests.DocumentationEditRequest | Mapping[str, Any]
    ) -> Operation[platform.Documentation]:
        """Change documentation."""
        given = read(requests.DocumentationEditRequest, edit, "The edit of the documentation")
        return self._operation(
            "Edit",
            "Documentation",
            f"edit the documentation of the {self.noun}",
            lambda answer: convert.documentation_from_proto(
                answer.documentation, entity=resource_id
            ),
            id=resource_id,
            documentation=convert.documentation_edit_to_proto(given),
        )

    def list_page(self, filters: Mapping[str, Any], page_token: str = "") -> Operation[Page[T]]:
        """Ask for a page."""
        query = read(self.query_type, query_arguments(filters), "The query")
        fields = f"{self.field}s"

        def decode(answer: Any) -> Page[T]:
            items: Any = [convert.from_proto(item) for item in getattr(answer, fields)]
            return Page(items, answer.page.next_page_token, answer.page.revision)

        return self._operation(
            "List",
            "s",
            f"list the {self.noun}s",
            decode,
            filter=converted(convert.query_to_proto, query, "The query"),
            page=converted(lambda one: convert.page_to_proto(one, page_token), query, "The query"),
        )

    def watch(
        self, filters: Mapping[str, Any], after_revision: int
    ) -> StreamOperation[Change[T] | int]:
        """Ask for changes; a number is the revision up to which everything was sent."""
        query = read(self.query_type, query_arguments(filters), "The filter")
        for name in ("order", "orderBy", "limit", "after"):
            if getattr(query, name) is not None:
                raise invalid(name, "has no meaning for a watch")
        name = f"Watch{self.name}s"
        request = getattr(self.module, f"{name}Request")(
            filter=converted(convert.query_to_proto, query, "The filter"),
            after_revision=revision(after_revision, "after_revision"),
        )
        return StreamOperation(
            service=self.service,
            method=name,
            what=f"watch the {self.noun}s",
            request=request,
            response=getattr(self.module, f"{name}Response"),
            decode=self._change,
        )

    def _change(self, answer: Any) -> list[Change[T] | int]:
        if answer.type == common_pb2.CHANGE_TYPE_UNSPECIFIED:
            return [answer.revision]
        kind = common_pb2.ChangeType.Name(answer.type).removeprefix("CHANGE_TYPE_").lower()
        resource: Any = convert.from_proto(getattr(answer, self.field))
        return [Change(kind, resource, answer.revision)]

    def _operation(
        self,
        verb: str,
        suffix: str,
        what: str,
        decode: Callable[[Any], Any] | None = None,
        **fields: Any,
    ) -> Operation[Any]:
        name = f"{verb}{self.name}{suffix}"
        if "id" in fields:
            text(fields["id"], "id")
        return Operation(
            service=self.service,
            method=name,
            what=what,
            request=getattr(self.module, f"{name}Request")(**fields),
            response=getattr(self.module, f"{name}Response"),
            decode=decode or (lambda answer: convert.from_proto(getattr(answer, self.field))),
        )


def _status(answer: Any) -> platform.Status:
    status: platform.Status = convert.from_proto(answer.status)
    return status


MODELS: Final[Resource[platform.Model]] = Resource(
    Service.REGISTRY, registry, "Model", "model", "model", requests.ModelQueryRequest
)
SERVICES: Final[Resource[platform.InferenceService]] = Resource(
    Service.REGISTRY,
    registry,
    "InferenceService",
    "inference_service",
    "inference service",
    requests.InferenceServiceQueryRequest,
)
SESSIONS: Final[Resource[platform.InferenceSession]] = Resource(
    Service.SESSION_MANAGER,
    sessions,
    "InferenceSession",
    "inference_session",
    "inference session",
    requests.InferenceSessionQueryRequest,
)
