"""Following changes over lost connections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from podbay._core.operations import StreamOperation
from podbay._core.resource_ops import Resource
from podbay.types import Change

__all__ = ["Watch"]

T = TypeVar("T")


class Watch(Generic[T]):
    """Where a watch is.

    Args:
        resource: The kind of resource.
        filters: The keywords of `query`, without order and limit.
        after_revision: Only later changes are wanted.

    Raises:
        InvalidRequestError: The filters break a rule.
    """

    def __init__(
        self, resource: Resource[T], filters: Mapping[str, Any], after_revision: int
    ) -> None:
        self._resource = resource
        self._filters = filters
        self._revision = after_revision
        self.operation()

    def operation(self) -> StreamOperation[Change[T] | int]:
        """Return the RPC that goes on after what was taken."""
        return self._resource.watch(self._filters, self._revision)

    def took(self, came: Change[T] | int) -> Change[T] | None:
        """Note what came; return it where it is a change and not progress only."""
        if isinstance(came, int):
            self._revision = max(self._revision, came)
            return None
        self._revision = max(self._revision, came.revision)
        return came
