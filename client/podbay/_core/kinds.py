"""Which group of a client has the resources of a kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from podbay._core.wire_errors import invalid
from podbay.errors import UnknownKindError

__all__ = ["HasIdentity", "group_of", "identity"]

_GROUPS: Final[Mapping[str, str]] = {
    "Model": "models",
    "InferenceService": "inferenceservices",
    "InferenceSession": "inferencesessions",
}


class HasIdentity(Protocol):
    """What names a resource: an `EntityIdentifier`, a resource, or another package's."""

    @property
    def kind(self) -> Any:
        """The kind, as "Model"."""

    @property
    def id(self) -> str:
        """The id."""


def group_of(kind: Any) -> str:
    """Return the name of the group of a kind.

    Args:
        kind: As "Model", or the member of an enumeration with such a value.

    Raises:
        UnknownKindError: Podbay has no resources of this kind.
    """
    name = getattr(kind, "value", kind)
    group = _GROUPS.get(name) if isinstance(name, str) else None
    if group is None:
        raise UnknownKindError(
            f"Podbay has no resources of the kind {str(name)[:64]!r}: it has {', '.join(_GROUPS)}.",
            reason="INVALID_REQUEST",
            violations=[("kind", f"must be one of {', '.join(_GROUPS)}")],
        )
    return group


def identity(entity: HasIdentity | Mapping[str, Any]) -> tuple[str, str]:
    """Return the name of the group, and the id, of what names a resource.

    Raises:
        InvalidRequestError: It names none.
        UnknownKindError: Podbay has no resources of its kind.
    """
    if isinstance(entity, Mapping):
        kind, found = entity.get("kind"), entity.get("id")
    else:
        kind, found = getattr(entity, "kind", None), getattr(entity, "id", None)
    if kind is None or not isinstance(found, str):
        raise invalid("entity", "must have a kind and an id", "The identifier")
    return group_of(kind), found
