"""Lists of a resource store: filters in SQL as far as columns go, scopes, orders, pages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import pydantic
import sqlalchemy as sa

from podbay_kit.auth import Scope
from podbay_kit.resource_filters import (
    CompiledFilter,
    ResourceFilter,
    ResourceKind,
    compile_filter,
)
from podbay_kit.resource_log_store import ChangeLog
from podbay_kit.resource_pages import PageQuery, Position
from podbay_kit.resource_tables import ResourceTables

__all__ = ["COLUMNS", "Page", "ResourceLists"]

E = TypeVar("E", bound=pydantic.BaseModel)

_BATCH: Final = 500

# A page ends before its size where it would not fit into a message: page size is a limit.
_PAGE_CHARACTERS: Final = 8 << 20

COLUMNS: Final = {
    "id": "id",
    "account": "account",
    "status": "status",
    "reason": "reason",
    "name": "name",
    "model": "model",
    "modelName": "model_name",
    "inferenceService": "inference_service",
    "inferenceServiceName": "inference_service_name",
}
"""The columns that hold a filter's keys."""


@dataclass(frozen=True)
class Page(Generic[E]):
    """One page of a list.

    Args:
        items: The resources.
        next_token: The token of the next page; empty on the last.
        revision: The revision that the list's first page showed: a watch from here misses
            nothing of any page.
    """

    items: list[E]
    next_token: str
    revision: int


class ResourceLists:
    """Lists resources. All methods run within a transaction of the caller."""

    def __init__(self, tables: ResourceTables, log: ChangeLog) -> None:
        self._resources = tables.resources
        self._labels = tables.labels
        self._log = log

    def list_page(
        self,
        conn: sa.Connection,
        kind: ResourceKind[E],
        given: ResourceFilter,
        page: PageQuery,
        scope: Scope,
    ) -> Page[E]:
        """Return one page of the resources that a filter selects within a scope.

        Raises:
            ServiceError: INVALID_REQUEST (the filter), or INVALID_PAGE_TOKEN.
        """
        selected = compile_filter(given, kind)
        listed = f"{kind.name} {selected.key()}"
        now = self._log.revision(conn)
        position = page.start(listed, now)
        revision = now if position is None else position.revision
        items: list[E] = []
        characters = 0
        while True:
            seen = 0
            with conn.execute(self._select(kind, selected, scope, page, position)) as rows:
                for row in rows:
                    seen += 1
                    position, before = Position(row.order_value, row.id, revision), position
                    if not _is_selected(selected, scope, row.document):
                        continue
                    characters += len(row.document)
                    full = len(items) == page.size or (items and characters > _PAGE_CHARACTERS)
                    if full and before is not None:
                        return Page(items, page.next_token(listed, before), revision)
                    items.append(kind.load(row.document))
            if seen < _batch(page, selected):
                return Page(items, "", revision)

    def _select(
        self,
        kind: ResourceKind[Any],
        selected: CompiledFilter,
        scope: Scope,
        page: PageQuery,
        after: Position | None,
    ) -> sa.Select[Any]:
        resources = self._resources
        order = self._order(page.order_by)
        query = sa.select(resources.c.id, resources.c.document, order.label("order_value")).where(
            resources.c.kind == kind.name
        )
        for condition in selected.conditions:
            if condition.key is not None:
                column = resources.c[COLUMNS[condition.key]]
                query = query.where(_equals_one(column, condition.values))
        query = self._where_labels(query, kind, selected)
        if not scope.everything:
            query = query.where(
                sa.or_(
                    resources.c.account.in_(sorted(scope.accounts)),
                    resources.c.id.in_(sorted(scope.entities)),
                )
            )
        if after is not None:
            here = sa.tuple_(order, resources.c.id)
            there = sa.tuple_(sa.literal(after.value), sa.literal(after.id))
            query = query.where(here < there if page.descending else here > there)
        columns = (order, resources.c.id)
        return query.order_by(
            *(column.desc() if page.descending else column.asc() for column in columns)
        ).limit(_batch(page, selected))

    def _where_labels(
        self, query: sa.Select[Any], kind: ResourceKind[Any], selected: CompiledFilter
    ) -> sa.Select[Any]:
        labels = self._labels
        for key, value in selected.labels:
            query = query.where(
                self._resources.c.id.in_(
                    sa.select(labels.c.id).where(
                        labels.c.kind == kind.name, labels.c.key == key, labels.c.value == value
                    )
                )
            )
        return query

    def _order(self, order_by: str) -> sa.ColumnElement[str]:
        resources = self._resources
        orders: dict[str, sa.ColumnElement[str]] = {
            "creationTime": resources.c.creation_time,
            # A session has no name.
            "name": sa.func.coalesce(resources.c.name, ""),
            "status": resources.c.status,
            "id": resources.c.id,
        }
        return orders[order_by]


def _batch(page: PageQuery, selected: CompiledFilter) -> int:
    # One more than the page, to know whether there is another; more where the filter has
    # conditions that only the document can tell.
    return min(page.size + 1, _BATCH) if selected.in_columns else _BATCH


def _is_selected(selected: CompiledFilter, scope: Scope, document: str) -> bool:
    return selected.in_columns or selected.matches(json.loads(document), scope)


def _equals_one(column: sa.ColumnElement[Any], values: tuple[Any, ...]) -> sa.ColumnElement[bool]:
    texts = [value for value in values if value is not None]
    one_of = column.in_(texts)
    return sa.or_(one_of, column.is_(None)) if None in values else one_of
