"""The change log of a resource store: revisions, reading on from one, compaction."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final

import sqlalchemy as sa

from podbay.v1 import common_pb2, errors_pb2
from podbay_kit.auth import Scope
from podbay_kit.errors import ServiceError
from podbay_kit.resource_filters import CompiledFilter, Document
from podbay_kit.resource_tables import ResourceTables
from podbay_kit.resource_times import text_time

__all__ = ["Change", "ChangeLog", "text_time"]

_ROW: Final = 1


@dataclass(frozen=True)
class Change:
    """One change of one resource.

    Args:
        revision: The revision of the store after the change.
        kind: The name of the resource's kind.
        id: The id of the resource.
        type: What happened.
        document: The resource after the change, as JSON text.
        previous: The resource before the change; None where it was created.
    """

    revision: int
    kind: str
    id: str
    type: common_pb2.ChangeType.ValueType
    document: str
    previous: str | None = None

    @cached_property
    def after(self) -> Document:
        """The resource after the change."""
        return _object(self.document)

    @cached_property
    def before(self) -> Document | None:
        """The resource before the change; None where it was created."""
        return None if self.previous is None else _object(self.previous)

    def concerns(self, selected: CompiledFilter, scope: Scope) -> bool:
        """Say whether a filter matches the resource before or after the change.

        Who watches "Admitted" sessions must be told of the change by which one stops to be so.
        """
        if selected.matches(self.after, scope):
            return True
        return self.before is not None and selected.matches(self.before, scope)


class ChangeLog:
    """The change log. All methods run within a transaction of the caller."""

    def __init__(self, tables: ResourceTables) -> None:
        self._changes = tables.changes
        self._counter = tables.counter

    def revision(self, conn: sa.Connection) -> int:
        """Return the revision of the store; 0 where nothing was ever written."""
        return self._counters(conn)[0]

    def next_revision(self, conn: sa.Connection) -> int:
        """Take the next revision, within a writing transaction.

        The counter's row is the lock: until this transaction commits no other can take a
        revision, so that nobody ever sees revision 101 before 100.
        """
        counter = self._counter
        taken = conn.execute(
            sa.update(counter)
            .where(counter.c.row == _ROW)
            .values(revision=counter.c.revision + 1)
            .returning(counter.c.revision)
        ).scalar()
        if taken is not None:
            return int(taken)
        conn.execute(sa.insert(counter).values(row=_ROW, revision=1, compacted=0))
        return 1

    def append(self, conn: sa.Connection, change: Change, now: datetime) -> None:
        """Write a change whose revision was taken in this transaction."""
        conn.execute(
            sa.insert(self._changes).values(
                revision=change.revision,
                kind=change.kind,
                id=change.id,
                type=change.type,
                time=text_time(now),
                document=change.document,
                previous=change.previous,
            )
        )

    def after(
        self, conn: sa.Connection, kind: str | None, revision: int, limit: int
    ) -> tuple[list[Change], int]:
        """Return the changes after a revision, in their order, and up to where that is all.

        Args:
            conn: The transaction.
            kind: The name of the kind of resource; None for all kinds.
            revision: Where to go on from.
            limit: The most changes to return.

        Returns:
            The changes, and the revision to go on from: there are no other changes up to it.

        Raises:
            ServiceError: REVISION_COMPACTED.
        """
        head, compacted = self._counters(conn)
        if revision < compacted:
            raise _compacted(
                f"The changes after revision {revision} are no longer kept; the oldest that can "
                f"be watched from is {compacted}."
            )
        if revision > head:
            raise _compacted(
                f"Revision {revision} is ahead of this store, which is at {head}: the store was "
                "replaced, or restored from a backup."
            )
        changes = self._changes
        query = sa.select(changes).where(changes.c.revision > revision)
        if kind is not None:
            query = query.where(changes.c.kind == kind)
        rows = conn.execute(query.order_by(changes.c.revision).limit(limit)).all()
        found = [
            Change(
                revision=row.revision,
                kind=row.kind,
                id=row.id,
                type=common_pb2.ChangeType.ValueType(row.type),
                document=row.document,
                previous=row.previous,
            )
            for row in rows
        ]
        return found, found[-1].revision if len(found) == limit else head

    def compact(
        self, conn: sa.Connection, now: datetime, *, keep: int = 10_000, age: timedelta
    ) -> int:
        """Forget changes that are older than `age` or not among the last `keep`.

        Returns:
            The revision up to which changes are no longer kept.
        """
        head, compacted = self._counters(conn)
        changes = self._changes
        old = conn.execute(
            sa.select(sa.func.max(changes.c.revision)).where(changes.c.time < text_time(now - age))
        ).scalar()
        floor = max(compacted, head - keep, old or 0)
        if floor > compacted:
            conn.execute(sa.delete(changes).where(changes.c.revision <= floor))
            conn.execute(
                sa.update(self._counter).where(self._counter.c.row == _ROW).values(compacted=floor)
            )
        return floor

    def _counters(self, conn: sa.Connection) -> tuple[int, int]:
        counter = self._counter
        row = conn.execute(
            sa.select(counter.c.revision, counter.c.compacted).where(counter.c.row == _ROW)
        ).one_or_none()
        return (0, 0) if row is None else (row.revision, row.compacted)


def _compacted(message: str) -> ServiceError:
    return ServiceError(
        errors_pb2.ERROR_REASON_REVISION_COMPACTED,
        f"{message} List again, and watch from the revision of that list.",
    )


def _object(text: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(text)
    return document
