"""The resource store: pydantic entities with labels, filters, pages, revisions and a change log.

All methods are synchronous and take a connection, so that a service can put them into one
transaction of `podbay_kit.storage.Database` together with writes of its own:

    service = await feed.write(lambda conn: store.insert(conn, SERVICES, service, now=now))

`podbay_kit.resource_feed.ChangeFeed` tells watchers of what was written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

import pydantic
import sqlalchemy as sa

from podbay.v1 import common_pb2, errors_pb2
from podbay_kit import audit
from podbay_kit.auth import Scope
from podbay_kit.errors import ServiceError
from podbay_kit.resource_filters import (
    Document,
    ResourceFilter,
    ResourceKind,
    compile_filter,
    lookup,
)
from podbay_kit.resource_list_store import COLUMNS, Page, ResourceLists
from podbay_kit.resource_log_store import Change, ChangeLog, text_time
from podbay_kit.resource_pages import PageQuery
from podbay_kit.resource_request_store import RequestKey, RequestLog
from podbay_kit.resource_tables import ResourceTables, define_resource_tables

__all__ = [
    "Change",
    "Inserted",
    "Page",
    "PageQuery",
    "RequestKey",
    "ResourceFilter",
    "ResourceKind",
    "ResourceStore",
    "ResourceTables",
    "compile_filter",
    "define_resource_tables",
]

E = TypeVar("E", bound=pydantic.BaseModel)

DELETED: Final = "Deleted"
"""The status of a resource that was deleted and is still shown."""

_BATCH: Final = 500


@dataclass(frozen=True)
class Inserted(Generic[E]):
    """The outcome of an insert.

    Args:
        entity: The resource.
        created: False where the same request made it before.
    """

    entity: E
    created: bool


class ResourceStore:
    """Keeps resources. All methods run within a transaction of the caller."""

    def __init__(self, tables: ResourceTables) -> None:
        self._resources = tables.resources
        self._labels = tables.labels
        self._requests = RequestLog(tables)
        self.log = ChangeLog(tables)
        self._lists = ResourceLists(tables, self.log)

    def insert(
        self,
        conn: sa.Connection,
        kind: ResourceKind[E],
        entity: E,
        *,
        now: datetime,
        request: RequestKey | None = None,
    ) -> Inserted[E]:
        """Add a resource.

        Args:
            conn: The transaction.
            kind: The kind of resource.
            entity: The resource.
            now: The time of the change.
            request: What makes the insert idempotent for a day.

        Returns:
            The resource; where the same request came before, the one that was made then.

        Raises:
            ServiceError: REQUEST_ID_REUSED, or ALREADY_EXISTS where the id is taken.
        """
        if request is not None:
            before = self.replay(conn, kind, request, now=now)
            if before is not None:
                return Inserted(before, created=False)
        document = kind.dump(entity)
        values = _values(kind, document)
        audit.note(resource_id=values["id"])
        if self._row(conn, kind, values["id"]) is not None:
            raise ServiceError(
                errors_pb2.ERROR_REASON_ALREADY_EXISTS,
                f"There is a {kind.label} with this id. Use another id.",
            )
        revision = self.log.next_revision(conn)
        conn.execute(
            sa.insert(self._resources).values(
                **values, kind=kind.name, revision=revision, deleted_time=None
            )
        )
        self._write_labels(conn, kind, values["id"], document)
        change = Change(revision, kind.name, values["id"], common_pb2.CHANGE_TYPE_CREATED, document)
        self.log.append(conn, change, now)
        if request is not None:
            self._requests.remember(conn, kind.name, request, values["id"], now)
        return Inserted(entity, created=True)

    def replay(
        self, conn: sa.Connection, kind: ResourceKind[E], request: RequestKey, *, now: datetime
    ) -> E | None:
        """Return what the same request made before, as it is now; None where it is new.

        `insert` does this too. A service does it first where its checks could refuse the repeat
        of a request that went through.

        Raises:
            ServiceError: REQUEST_ID_REUSED, where the request came before with other content.
        """
        made = self._requests.find(conn, kind.name, request, now)
        audit.note(resource_id=made)
        return None if made is None else self.find(conn, kind, made)

    def find(self, conn: sa.Connection, kind: ResourceKind[E], resource_id: str) -> E | None:
        """Return a resource, deleted ones too; None where there is none with this id."""
        row = self._row(conn, kind, resource_id)
        return None if row is None else kind.load(row.document)

    def get(self, conn: sa.Connection, kind: ResourceKind[E], resource_id: str) -> E:
        """Return a resource, deleted ones too.

        Raises:
            ServiceError: The kind's reason for an id that does not exist.
        """
        entity = self.find(conn, kind, resource_id)
        if entity is None:
            raise kind.missing(resource_id)
        return entity

    def update(
        self, conn: sa.Connection, kind: ResourceKind[E], entity: E, *, now: datetime
    ) -> int:
        """Replace a resource by its new state. Where nothing differs, nothing is written.

        Returns:
            The revision of the resource's last change.

        Raises:
            ServiceError: The kind's reason for an id that does not exist.
        """
        document = kind.dump(entity)
        values = _values(kind, document)
        resource_id = values["id"]
        row = self._row(conn, kind, resource_id)
        if row is None:
            raise kind.missing(resource_id)
        if row.document == document:
            return int(row.revision)
        deleted = values["status"] == DELETED
        gone = deleted and row.deleted_time is None
        revision = self.log.next_revision(conn)
        conn.execute(
            sa.update(self._resources)
            .where(self._resources.c.kind == kind.name, self._resources.c.id == resource_id)
            .values(
                **values,
                revision=revision,
                deleted_time=(row.deleted_time or text_time(now)) if deleted else None,
            )
        )
        self._write_labels(conn, kind, resource_id, document, replace=True)
        change_type = common_pb2.CHANGE_TYPE_DELETED if gone else common_pb2.CHANGE_TYPE_UPDATED
        change = Change(revision, kind.name, resource_id, change_type, document, row.document)
        self.log.append(conn, change, now)
        return revision

    def modify(
        self,
        conn: sa.Connection,
        kind: ResourceKind[E],
        resource_id: str,
        change: Callable[[E], E],
        *,
        now: datetime,
    ) -> E:
        """Read a resource, change it with a pure function, and write it, as one step.

        Raises:
            ServiceError: The kind's reason for an id that does not exist, or what `change` raises.
        """
        entity = change(self.get(conn, kind, resource_id))
        self.update(conn, kind, entity, now=now)
        return entity

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
        return self._lists.list_page(conn, kind, given, page, scope)

    def every(
        self,
        conn: sa.Connection,
        kind: ResourceKind[E],
        given: ResourceFilter | None = None,
    ) -> Iterator[E]:
        """Yield all resources that a filter selects, oldest first, deleted ones too.

        For a service's own use: it reads on within the transaction, without pages.
        """
        page = PageQuery(size=_BATCH)
        while True:
            got = self.list_page(
                conn, kind, given or ResourceFilter(), page, Scope(everything=True)
            )
            yield from got.items
            if not got.next_token:
                return
            page = PageQuery(size=_BATCH, token=got.next_token)

    def snapshot(self, conn: sa.Connection, kind: ResourceKind[Any]) -> tuple[list[Change], int]:
        """Return what is there, and the revision of that, for a watch that starts with it.

        The resources that are not deleted, each as a CREATED with the revision of its last
        change, in the order of these: a watch that goes on from any of them misses nothing.
        """
        resources = self._resources
        rows = conn.execute(
            sa.select(resources.c.id, resources.c.revision, resources.c.document)
            .where(resources.c.kind == kind.name, resources.c.deleted_time.is_(None))
            .order_by(resources.c.revision)
        ).all()
        created = common_pb2.CHANGE_TYPE_CREATED
        changes = [Change(row.revision, kind.name, row.id, created, row.document) for row in rows]
        return changes, self.log.revision(conn)

    def maintain(
        self,
        conn: sa.Connection,
        *,
        now: datetime,
        keep_changes: int = 10_000,
        keep_changes_for: timedelta = timedelta(days=1),
        keep_deleted_for: timedelta = timedelta(days=7),
    ) -> None:
        """Forget old changes, old request ids, and what was deleted long ago."""
        self.log.compact(conn, now, keep=keep_changes, age=keep_changes_for)
        self._requests.forget(conn, now)
        resources, labels = self._resources, self._labels
        old = resources.c.deleted_time < text_time(now - keep_deleted_for)
        gone = conn.execute(sa.select(resources.c.kind, resources.c.id).where(old)).all()
        for kind, resource_id in gone:
            conn.execute(sa.delete(labels).where(labels.c.kind == kind, labels.c.id == resource_id))
        if gone:
            conn.execute(sa.delete(resources).where(old))

    def _row(self, conn: sa.Connection, kind: ResourceKind[Any], resource_id: str) -> Any:
        if "\0" in resource_id:
            # PostgreSQL takes no such text; nothing has such an id.
            return None
        resources = self._resources
        return conn.execute(
            sa.select(resources.c.document, resources.c.revision, resources.c.deleted_time).where(
                resources.c.kind == kind.name, resources.c.id == resource_id
            )
        ).one_or_none()

    def _write_labels(
        self,
        conn: sa.Connection,
        kind: ResourceKind[Any],
        resource_id: str,
        document: str,
        *,
        replace: bool = False,
    ) -> None:
        labels = self._labels
        if replace:
            conn.execute(
                sa.delete(labels).where(labels.c.kind == kind.name, labels.c.id == resource_id)
            )
        pairs = json.loads(document)["labels"].items()
        if pairs:
            conn.execute(
                sa.insert(labels),
                [
                    {"kind": kind.name, "id": resource_id, "key": key, "value": value}
                    for key, value in pairs
                ],
            )


def _values(kind: ResourceKind[Any], text: str) -> dict[str, Any]:
    """Return the columns of a resource, out of its document."""
    document: Document = json.loads(text)
    values: dict[str, Any] = dict.fromkeys(COLUMNS.values())
    for key, path in kind.fields.items():
        values[COLUMNS[key]] = next(lookup(document, path), None)
    values["creation_time"] = text_time(datetime.fromisoformat(document["creationTime"]))
    values["document"] = text
    return values
