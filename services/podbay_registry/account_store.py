"""Accounts and the installation in the registry's database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from podbay.v1 import errors_pb2
from podbay_kit.auth import Scope
from podbay_kit.errors import ServiceError
from podbay_kit.resource_log_store import text_time
from podbay_kit.resource_pages import PageQuery, Position
from podbay_registry.tables import ACCOUNTS, INSTALLATION

__all__ = ["Account", "AccountStore", "Installation", "Rows", "page_of"]

_ROW: Final = 1


@dataclass(frozen=True, slots=True)
class Account:
    """An account."""

    id: str
    creation_time: datetime


@dataclass(frozen=True, slots=True)
class Installation:
    """What the registry knows of the installation itself."""

    id: str
    admin_token_id: str


@dataclass(frozen=True, slots=True)
class Rows:
    """One page of rows, the token of the next page, and the revision of the first."""

    rows: list[sa.Row[Any]]
    next_token: str
    revision: int


def page_of(
    conn: sa.Connection,
    query: sa.Select[Any],
    order: sa.ColumnElement[str],
    item: sa.ColumnElement[str],
    page: PageQuery,
    *,
    listed: str,
    revision: int,
) -> Rows:
    """Run a query for one page by keyset.

    Args:
        conn: The transaction.
        query: Selects what is listed, in no order.
        order: What the page is ordered by.
        item: The id of an item.
        page: Which page.
        listed: A text that says what is listed.
        revision: The revision of the store now.

    Raises:
        ServiceError: INVALID_PAGE_TOKEN.
    """
    start = page.start(listed, revision)
    query = query.add_columns(order.label("order_value"), item.label("order_id"))
    if start is not None:
        here = sa.tuple_(order, item)
        there = sa.tuple_(sa.literal(start.value), sa.literal(start.id))
        query = query.where(here < there if page.descending else here > there)
        revision = start.revision
    query = query.order_by(*(c.desc() if page.descending else c.asc() for c in (order, item)))
    rows = list(conn.execute(query.limit(page.size + 1)).all())
    token = ""
    if len(rows) > page.size:
        rows.pop()
        last = Position(rows[-1].order_value, rows[-1].order_id, revision)
        token = page.next_token(listed, last)
    return Rows(rows, token, revision)


class AccountStore:
    """Accounts and the installation. All methods run within a transaction of the caller."""

    def add(self, conn: sa.Connection, account_id: str, now: datetime) -> Account:
        """Make an account.

        Raises:
            ServiceError: ALREADY_EXISTS.
        """
        if self._exists(conn, account_id):
            raise ServiceError(
                errors_pb2.ERROR_REASON_ALREADY_EXISTS,
                "There is an account with this id. Use it, or choose another id.",
            )
        conn.execute(sa.insert(ACCOUNTS).values(id=account_id, creation_time=text_time(now)))
        return Account(account_id, now)

    def check(self, conn: sa.Connection, account_id: str) -> None:
        """Return where the account exists.

        Raises:
            ServiceError: ACCOUNT_NOT_FOUND.
        """
        if not self._exists(conn, account_id):
            raise ServiceError(
                errors_pb2.ERROR_REASON_ACCOUNT_NOT_FOUND,
                "There is no account with this id. Create it first, or use one that exists (list "
                "the accounts).",
            )

    def list_page(
        self, conn: sa.Connection, page: PageQuery, scope: Scope, *, revision: int
    ) -> tuple[list[Account], Rows]:
        """Return one page of the accounts within a scope.

        Raises:
            ServiceError: INVALID_PAGE_TOKEN.
        """
        query = sa.select(ACCOUNTS)
        if not scope.everything:
            query = query.where(ACCOUNTS.c.id.in_(sorted(scope.accounts | scope.entities)))
        order = {"creationTime": ACCOUNTS.c.creation_time, "id": ACCOUNTS.c.id}[page.order_by]
        got = page_of(conn, query, order, ACCOUNTS.c.id, page, listed="accounts", revision=revision)
        return [Account(r.id, datetime.fromisoformat(r.creation_time)) for r in got.rows], got

    def installation(self, conn: sa.Connection) -> Installation | None:
        """Return the installation; None before the first start."""
        row = conn.execute(sa.select(INSTALLATION)).one_or_none()
        return None if row is None else Installation(row.id, row.admin_token_id)

    def install(self, conn: sa.Connection, installation: Installation) -> None:
        """Write down the installation, at its first start."""
        conn.execute(
            sa.insert(INSTALLATION).values(
                row=_ROW, id=installation.id, admin_token_id=installation.admin_token_id
            )
        )

    def set_admin_token(self, conn: sa.Connection, token_id: str) -> None:
        """Write down which token is in the admin token file."""
        conn.execute(sa.update(INSTALLATION).values(admin_token_id=token_id))

    def _exists(self, conn: sa.Connection, account_id: str) -> bool:
        found = conn.execute(sa.select(ACCOUNTS.c.id).where(ACCOUNTS.c.id == account_id))
        return found.one_or_none() is not None
