"""Walking over the pages of a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from podbay._core.operations import Operation, Page
from podbay._core.resource_ops import Resource

__all__ = ["Pages"]

T = TypeVar("T")


class Pages(Generic[T]):
    """Which page comes next.

    Args:
        resource: The kind of resource.
        filters: The keywords of `query`; `limit` bounds all pages together.

    Raises:
        InvalidRequestError: The filters break a rule.
    """

    def __init__(self, resource: Resource[T], filters: Mapping[str, Any]) -> None:
        self._resource = resource
        self._filters = filters
        self._limit: int | None = filters.get("limit")
        self._taken = 0
        self._next: Operation[Page[T]] | None = resource.list_page(filters)

    def next_operation(self) -> Operation[Page[T]] | None:
        """Return the RPC of the next page; None where there is none."""
        return self._next

    def took(self, page: Page[T]) -> list[T]:
        """Return what is on a page, and go on to the next."""
        items = page.items
        if self._limit is not None:
            items = items[: self._limit - self._taken]
        self._taken += len(items)
        full = self._limit is not None and self._taken >= self._limit
        self._next = (
            self._resource.list_page(self._filters, page.next_token)
            if page.next_token and not full
            else None
        )
        return items
