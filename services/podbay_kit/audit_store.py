"""An audit log in a service's database: entries are added, listed, and removed when too old."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from podbay_kit.audit import AuditRecord
from podbay_kit.auth import Scope
from podbay_kit.resource_pages import PageQuery, Position
from podbay_kit.resource_times import text_time

__all__ = ["AuditQuery", "AuditStore", "Retention"]

_BATCH: Final = 5000


@dataclass(frozen=True, slots=True)
class Retention:
    """How long entries are kept.

    Attributes:
        age: Older entries are removed.
        changes: How many entries of calls that did what they should are kept.
        refusals: How many entries of calls that failed are kept: a flood of these must not push
            out the others.
    """

    age: timedelta = timedelta(days=365)
    changes: int = 1_000_000
    refusals: int = 100_000


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which entries; what is empty or None selects all. The fields are those of AuditFilter."""

    account: str = ""
    resource: str = ""
    resource_id: str = ""
    actor: str = ""
    method: str = ""
    since: datetime | None = None
    until: datetime | None = None
    failed: bool | None = None

    @property
    def listed(self) -> str:
        """A text that says what is listed, for page tokens."""
        times = [None if time is None else text_time(time) for time in (self.since, self.until)]
        return json.dumps(
            [
                "audit",
                *(self.account, self.resource, self.resource_id, self.actor, self.method),
                *times,
                self.failed,
            ]
        )


class AuditStore:
    """Entries of an audit log. All methods run within a transaction of the caller.

    Args:
        table: The table, as `define_audit_table` makes it.
    """

    def __init__(self, table: sa.Table) -> None:
        self._table = table

    def append(self, conn: sa.Connection, record: AuditRecord) -> None:
        """Add an entry."""
        first = record.first_time
        conn.execute(
            sa.insert(self._table).values(
                id=record.id,
                time=text_time(record.time),
                actor_account=record.actor_account,
                actor_token=record.actor_token,
                peer=record.peer,
                method=record.method,
                resource=record.resource,
                account=record.account,
                resource_id=record.resource_id,
                code=record.code,
                reason=record.reason,
                call_id=record.call_id,
                calls=record.count,
                first_time=None if first is None else text_time(first),
                details=json.dumps(dict(record.details)),
            )
        )

    def list_page(
        self, conn: sa.Connection, query: AuditQuery, scope: Scope, *, size: int, token: str
    ) -> tuple[list[AuditRecord], str]:
        """Return one page of the entries within a scope, the newest first.

        Args:
            conn: The transaction.
            query: Which entries.
            scope: Whose the resources are that the caller may see entries on.
            size: How many at most.
            token: The token of the page; empty for the first.

        Returns:
            The entries, and the token of the next page; empty for the last.

        Raises:
            ServiceError: INVALID_PAGE_TOKEN.
        """
        page = PageQuery(size=size, token=token, order_by="time", descending=True)
        start = page.start(query.listed)
        columns = self._table.c
        select = sa.select(self._table).where(*self._conditions(query, scope))
        if start is not None:
            here = sa.tuple_(columns.time, columns.id)
            select = select.where(here < sa.tuple_(sa.literal(start.value), sa.literal(start.id)))
        select = select.order_by(columns.time.desc(), columns.id.desc()).limit(size + 1)
        rows = list(conn.execute(select).all())
        following = ""
        if len(rows) > size:
            rows.pop()
            following = page.next_token(query.listed, Position(rows[-1].time, rows[-1].id, 0))
        return [_record(row) for row in rows], following

    def purge(self, conn: sa.Connection, keep: Retention, now: datetime) -> int:
        """Remove entries that are too old or too many, and write down that it was done.

        To be called again while it returns something: one call removes only some thousands.

        Returns:
            How many were removed.
        """
        columns = self._table.c
        old = self._remove(conn, columns.time < text_time(now - keep.age))
        many = sum(
            self._remove_beyond(conn, of, most)
            for of, most in ((columns.code == 0, keep.changes), (columns.code != 0, keep.refusals))
        )
        if old or many:
            self.append(
                conn,
                AuditRecord(
                    id=uuid.uuid4().hex,
                    time=now,
                    actor_token="system",  # noqa: S106 # who did it, no secret
                    method="PurgeAuditRecords",
                    resource="audit",
                    details={"tooOld": str(old), "tooMany": str(many)},
                ),
            )
        return old + many

    def _remove_beyond(self, conn: sa.Connection, of: sa.ColumnElement[bool], most: int) -> int:
        columns = self._table.c
        order = columns.time.desc(), columns.id.desc()
        first = conn.execute(
            sa.select(columns.time, columns.id).where(of).order_by(*order).offset(most).limit(1)
        ).one_or_none()
        if first is None:
            return 0
        here = sa.tuple_(columns.time, columns.id)
        bound = sa.tuple_(sa.literal(first.time), sa.literal(first.id))
        return self._remove(conn, sa.and_(of, here <= bound))

    def _remove(self, conn: sa.Connection, of: sa.ColumnElement[bool]) -> int:
        columns = self._table.c
        doomed = sa.select(columns.id).where(of).order_by(columns.time, columns.id).limit(_BATCH)
        return conn.execute(sa.delete(self._table).where(columns.id.in_(doomed))).rowcount

    def _conditions(self, query: AuditQuery, scope: Scope) -> list[sa.ColumnElement[bool]]:
        columns = self._table.c
        found = [
            columns[name] == value
            for name in ("account", "resource", "resource_id", "method")
            if (value := getattr(query, name))
        ]
        if query.actor:
            found.append(
                sa.or_(columns.actor_account == query.actor, columns.actor_token == query.actor)
            )
        if query.since is not None:
            found.append(columns.time >= text_time(query.since))
        if query.until is not None:
            found.append(columns.time < text_time(query.until))
        if query.failed is not None:
            found.append(columns.code != 0 if query.failed else columns.code == 0)
        if not scope.everything:
            found.append(
                sa.or_(
                    columns.account.in_(sorted(scope.accounts)),
                    columns.resource_id.in_(sorted(scope.entities)),
                )
            )
        return found


def _record(row: sa.Row[Any]) -> AuditRecord:
    first = row.first_time
    return AuditRecord(
        id=row.id,
        time=datetime.fromisoformat(row.time),
        actor_account=row.actor_account,
        actor_token=row.actor_token,
        peer=row.peer,
        method=row.method,
        resource=row.resource,
        account=row.account,
        resource_id=row.resource_id,
        code=row.code,
        reason=row.reason,
        call_id=row.call_id,
        count=row.calls,
        first_time=None if first is None else datetime.fromisoformat(first),
        details=json.loads(row.details),
    )
