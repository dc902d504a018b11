"""Kinds of resource: how they are written, named, and selected. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import pydantic

from podbay.v1 import errors_pb2
from podbay_kit.errors import ServiceError

__all__ = ["MODEL_FIELDS", "SERVICE_FIELDS", "SESSION_FIELDS", "ResourceKind"]

E = TypeVar("E", bound=pydantic.BaseModel)

_COMMON: Final = {
    "id": ("id",),
    "account": ("account",),
    "status": ("status",),
    "reason": ("reason",),
    # A session has no name; a condition on it is allowed and matches none.
    "name": ("name",),
}

MODEL_FIELDS: Final[Mapping[str, tuple[str, ...]]] = _COMMON
"""The filter's keys that models have, with the path of each in the document."""

SERVICE_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    **_COMMON,
    "model": ("model", "id"),
    "modelName": ("model", "name"),
}
"""The filter's keys that inference services have, with the path of each in the document."""

SESSION_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    **_COMMON,
    "inferenceService": ("inferenceService", "id"),
    "inferenceServiceName": ("inferenceService", "name"),
    "model": ("inferenceService", "model", "id"),
    "modelName": ("inferenceService", "model", "name"),
}
"""The filter's keys that inference sessions have, with the path of each in the document."""


@dataclass(frozen=True)
class ResourceKind(Generic[E]):
    """A kind of resource that a store keeps.

    Args:
        name: The name of the kind in the JSON interface, as "InferenceService".
        label: What people call one of them, as "inference service".
        entity: The pydantic model of the resource. Its JSON form must have `id`, `account`,
            `status`, `creationTime` and `labels`.
        not_found: The reason of the error where an id does not exist.
        fields: The filter's keys that this kind has, with the path of each in the document.
    """

    name: str
    label: str
    entity: type[E]
    not_found: errors_pb2.ErrorReason.ValueType
    fields: Mapping[str, tuple[str, ...]]

    def dump(self, entity: E) -> str:
        """Return a resource as JSON text that `load` reads back without loss."""
        return entity.model_dump_json(by_alias=True)

    def load(self, document: str) -> E:
        """Read a resource from what `dump` wrote."""
        return self.entity.model_validate_json(document)

    def missing(self, resource_id: str) -> ServiceError:
        """Return the error of an id that does not exist."""
        return ServiceError(
            self.not_found,
            f"There is no {self.label} with the id {_shown_id(resource_id)}. It was never made, "
            "or it was deleted long ago; list what there is to find the right id.",
        )

    def members(self) -> frozenset[str]:
        """Return the names of the fields of a resource in its JSON form."""
        return frozenset(
            info.serialization_alias or info.alias or name
            for name, info in self.entity.model_fields.items()
        )


def _shown_id(resource_id: str) -> str:
    """Show an id where it has the form of one; what else was sent may be anything."""
    if 0 < len(resource_id) <= 64 and all(c.isascii() and c.isalnum() for c in resource_id):
        return f'"{resource_id}"'
    return "that was given"
