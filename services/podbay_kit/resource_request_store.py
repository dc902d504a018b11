"""Request ids: what makes a create idempotent."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from google.protobuf.message import Message

from podbay.v1 import errors_pb2
from podbay_kit.errors import ServiceError, invalid
from podbay_kit.resource_log_store import text_time
from podbay_kit.resource_tables import ResourceTables

__all__ = ["RequestKey", "RequestLog"]

_KEPT: Final = timedelta(days=1)
_MAX_REQUEST_ID: Final = 128


@dataclass(frozen=True)
class RequestKey:
    """What identifies a request that may come again.

    Args:
        account: The account for which something is created.
        request_id: The id that the caller chose.
        digest: A digest of the request's content.
    """

    account: str
    request_id: str
    digest: str

    @classmethod
    def of(
        cls, account: str, request_id: str, content: Message, *more: Message
    ) -> RequestKey | None:
        """Return the key of a request; None where it has no request id.

        Args:
            account: The account for which something is created.
            request_id: The request's `request_id`.
            content: The specification.
            *more: Further parts of the request.

        Raises:
            ServiceError: INVALID_REQUEST, where the request id is too long.
        """
        if not request_id:
            return None
        if len(request_id) > _MAX_REQUEST_ID or "\0" in request_id:
            raise invalid("requestId", f"must be text of at most {_MAX_REQUEST_ID} characters")
        digest = hashlib.sha256()
        for part in (content, *more):
            data = part.SerializeToString(deterministic=True)
            digest.update(f"{part.DESCRIPTOR.full_name} {len(data)} ".encode())
            digest.update(data)
        return cls(account, request_id, digest.hexdigest())


class RequestLog:
    """The requests of the last day. All methods run within a transaction of the caller."""

    def __init__(self, tables: ResourceTables) -> None:
        self._table = tables.request_ids

    def find(
        self, conn: sa.Connection, kind: str, request: RequestKey, now: datetime
    ) -> str | None:
        """Return the id of what the same request made; None where it is new or forgotten.

        Raises:
            ServiceError: REQUEST_ID_REUSED, where the request came before with other content.
        """
        table = self._table
        row = conn.execute(
            sa.select(table.c.digest, table.c.resource_id).where(
                self._same(kind, request), table.c.time >= text_time(now - _KEPT)
            )
        ).one_or_none()
        if row is None:
            return None
        if row.digest != request.digest:
            raise ServiceError(
                errors_pb2.ERROR_REASON_REQUEST_ID_REUSED,
                "This request id came within the last day with other content. Send the same "
                "content to get what was made then, or choose another request id.",
                metadata={"id": row.resource_id},
            )
        return str(row.resource_id)

    def remember(
        self,
        conn: sa.Connection,
        kind: str,
        request: RequestKey,
        resource_id: str,
        now: datetime,
    ) -> None:
        """Write down what a request made, in place of what a forgotten one made."""
        conn.execute(sa.delete(self._table).where(self._same(kind, request)))
        conn.execute(
            sa.insert(self._table).values(
                kind=kind,
                account=request.account,
                request_id=request.request_id,
                digest=request.digest,
                resource_id=resource_id,
                time=text_time(now),
            )
        )

    def forget(self, conn: sa.Connection, now: datetime) -> None:
        """Remove what is older than a day."""
        conn.execute(sa.delete(self._table).where(self._table.c.time < text_time(now - _KEPT)))

    def _same(self, kind: str, request: RequestKey) -> sa.ColumnElement[bool]:
        table = self._table
        return sa.and_(
            table.c.kind == kind,
            table.c.account == request.account,
            table.c.request_id == request.request_id,
        )
