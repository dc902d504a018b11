"""Identifiers of resources."""

from typing import Annotated
from uuid import UUID, uuid4, uuid5

from pydantic import StringConstraints

__all__ = ["EntityID", "generate_entity_id", "namespaced_id", "null_id", "replication_id"]

EntityID = Annotated[str, StringConstraints(pattern=r"^[a-f0-9]{32}$")]
"""The form of a generated id. Entities and references take any string as an id."""


def generate_entity_id() -> str:
    """Returns a new random id: 32 lower-case hexadecimal digits."""
    return uuid4().hex


def null_id() -> str:
    """Returns the id of 32 zeros, which stands for "the owner does not matter"."""
    return UUID(int=0).hex


def namespaced_id(namespace: str, name: str) -> str:
    """Returns the id that belongs to a name within a namespace; the same for the same arguments.

    Args:
        namespace: An id of 32 hexadecimal digits.
        name: Any text.

    Raises:
        ValueError: The namespace is not such an id.
    """
    return uuid5(UUID(hex=namespace), name).hex


def replication_id(evaluation: str, index: int) -> str:
    """Returns the id of a replication of an evaluation, by its index from 0."""
    return namespaced_id(evaluation, str(index))
