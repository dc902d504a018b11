"""API tokens in the registry's database."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from podbay.v1 import errors_pb2
from podbay_kit.auth import Scope
from podbay_kit.errors import ServiceError
from podbay_kit.resource_log_store import text_time
from podbay_kit.resource_pages import PageQuery
from podbay_registry.account_store import Rows, page_of
from podbay_registry.grants import dump_grants, load_grants
from podbay_registry.tables import API_TOKENS
from podbay_registry.tokens import ApiToken

__all__ = ["TokenStore"]


class TokenStore:
    """API tokens. All methods run within a transaction of the caller."""

    def add(self, conn: sa.Connection, token: ApiToken, digest: str) -> None:
        """Write down a token, and the digest of its secret."""
        conn.execute(
            sa.insert(API_TOKENS).values(
                id=token.id,
                account=token.account,
                name=token.name,
                secret_hash=digest,
                grants=dump_grants(token.grants),
                creation_time=text_time(token.creation_time),
                expires=None if token.expires is None else text_time(token.expires),
                revoked=None if token.revoked is None else text_time(token.revoked),
            )
        )

    def find(self, conn: sa.Connection, token_id: str) -> tuple[ApiToken, str] | None:
        """Return a token and the digest of its secret; None where there is none with this id."""
        row = conn.execute(sa.select(API_TOKENS).where(API_TOKENS.c.id == token_id)).one_or_none()
        return None if row is None else (_token(row), row.secret_hash)

    def get(self, conn: sa.Connection, token_id: str) -> ApiToken:
        """Return a token.

        Raises:
            ServiceError: API_TOKEN_NOT_FOUND.
        """
        found = self.find(conn, token_id)
        if found is None:
            raise ServiceError(
                errors_pb2.ERROR_REASON_API_TOKEN_NOT_FOUND,
                "There is no API token with this id. The id is the part of the secret before the "
                "dot; list the tokens to find it.",
            )
        return found[0]

    def list_page(
        self,
        conn: sa.Connection,
        page: PageQuery,
        scope: Scope,
        *,
        account: str | None,
        revision: int,
    ) -> tuple[list[ApiToken], Rows]:
        """Return one page of the tokens within a scope.

        Raises:
            ServiceError: INVALID_PAGE_TOKEN.
        """
        columns = API_TOKENS.c
        query = sa.select(API_TOKENS)
        if account is not None:
            query = query.where(columns.account == account)
        if not scope.everything:
            query = query.where(
                sa.or_(
                    columns.account.in_(sorted(scope.accounts)),
                    columns.id.in_(sorted(scope.entities)),
                )
            )
        orders = {"creationTime": columns.creation_time, "name": columns.name, "id": columns.id}
        listed = json.dumps(["apitokens", account])
        order = orders[page.order_by]
        got = page_of(conn, query, order, columns.id, page, listed=listed, revision=revision)
        return [_token(row) for row in got.rows], got

    def revoke(self, conn: sa.Connection, token_id: str, now: datetime) -> ApiToken:
        """End a token; one that was ended before keeps its time.

        Raises:
            ServiceError: API_TOKEN_NOT_FOUND.
        """
        conn.execute(
            sa.update(API_TOKENS)
            .where(API_TOKENS.c.id == token_id, API_TOKENS.c.revoked.is_(None))
            .values(revoked=text_time(now))
        )
        return self.get(conn, token_id)


def _token(row: sa.Row[Any]) -> ApiToken:
    return ApiToken(
        id=row.id,
        account=row.account,
        name=row.name,
        grants=load_grants(row.grants),
        creation_time=datetime.fromisoformat(row.creation_time),
        expires=_time(row.expires),
        revoked=_time(row.revoked),
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
