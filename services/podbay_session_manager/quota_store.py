"""The quotas of accounts, as the registry told them last, in the session manager's database."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from podbay_kit.quotas import Quota
from podbay_kit.storage import Database
from podbay_session_manager.tables import ACCOUNT_QUOTAS

__all__ = ["KnownQuota", "QuotaStore"]

KnownQuota = tuple[Quota, int]
"""A quota, and the registry's revision of it."""


class QuotaStore:
    """Keeps quotas. All methods raise `ServiceError` STORE_UNAVAILABLE.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> dict[str, KnownQuota]:
        """Return what is known, by account."""

        def load(conn: sa.Connection) -> dict[str, KnownQuota]:
            rows = conn.execute(sa.select(ACCOUNT_QUOTAS))
            return {row.account: (Quota.load(row.quota), row.revision) for row in rows}

        return await self._database.read(load)

    async def put(self, changed: Mapping[str, KnownQuota], *, replace: bool) -> None:
        """Write down what was told.

        Args:
            changed: What was told, by account.
            replace: Whether that is all there is.
        """

        def write(conn: sa.Connection) -> None:
            gone = sa.delete(ACCOUNT_QUOTAS)
            if not replace:
                gone = gone.where(ACCOUNT_QUOTAS.c.account.in_(sorted(changed)))
            conn.execute(gone)
            rows = [
                {"account": account, "quota": quota.dump(), "revision": revision}
                for account, (quota, revision) in changed.items()
            ]
            if rows:
                conn.execute(sa.insert(ACCOUNT_QUOTAS), rows)

        await self._database.write(write)
