"""The quotas of accounts in the registry's database, and what their models use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from podbay_kit.quotas import Quota
from podbay_kit.resource_log_store import ChangeLog
from podbay_kit.resources import DELETED
from podbay_registry.kinds import MODELS
from podbay_registry.tables import ACCOUNT_QUOTAS, ACCOUNTS, BLOBS, MODEL_FILES, RESOURCES

__all__ = ["QuotaStore", "StoredQuota"]


@dataclass(frozen=True, slots=True)
class StoredQuota:
    """A quota, and the revision of its last change; 0 where none was ever set."""

    account: str
    quota: Quota
    revision: int


class QuotaStore:
    """Quotas. All methods run within a transaction of the caller.

    Args:
        log: Where revisions come from.
    """

    def __init__(self, log: ChangeLog) -> None:
        self._log = log

    def get(self, conn: sa.Connection, account: str) -> StoredQuota:
        """Return the quota of an account; one without limits where none was ever set."""
        row = conn.execute(
            sa.select(ACCOUNT_QUOTAS).where(ACCOUNT_QUOTAS.c.account == account)
        ).one_or_none()
        if row is None:
            return StoredQuota(account, Quota(), 0)
        return StoredQuota(account, Quota.load(row.quota), row.revision)

    def put(self, conn: sa.Connection, account: str, quota: Quota) -> StoredQuota:
        """Set the quota of an account that exists."""
        # The counter's row is the lock, so that no other writer is in between.
        revision = self._log.next_revision(conn)
        values = {"quota": quota.dump(), "revision": revision}
        here = ACCOUNT_QUOTAS.c.account == account
        done = conn.execute(sa.update(ACCOUNT_QUOTAS).where(here).values(**values))
        if done.rowcount == 0:
            conn.execute(sa.insert(ACCOUNT_QUOTAS).values(account=account, **values))
        return StoredQuota(account, quota, revision)

    def after(self, conn: sa.Connection, revision: int) -> tuple[list[StoredQuota], int]:
        """Return the quotas that changed after a revision, and the revision of the store."""
        rows = conn.execute(
            sa.select(ACCOUNT_QUOTAS)
            .where(ACCOUNT_QUOTAS.c.revision > revision)
            .order_by(ACCOUNT_QUOTAS.c.revision)
        ).all()
        found = [StoredQuota(row.account, Quota.load(row.quota), row.revision) for row in rows]
        return found, self._log.revision(conn)

    def lock(self, conn: sa.Connection, account: str) -> None:
        """Let no other transaction add to what an account uses before this one has ended."""
        conn.execute(
            sa.select(ACCOUNTS.c.id).where(ACCOUNTS.c.id == account).with_for_update()
        ).all()

    def contents(self, conn: sa.Connection, account: str) -> Mapping[str, int]:
        """Return the sizes of the contents that living models of an account have, by digest."""
        resources = RESOURCES.resources
        rows = conn.execute(
            sa.select(BLOBS.c.sha256, BLOBS.c.size)
            .distinct()
            .select_from(
                MODEL_FILES.join(BLOBS, BLOBS.c.sha256 == MODEL_FILES.c.sha256).join(
                    resources, resources.c.id == MODEL_FILES.c.model
                )
            )
            .where(
                resources.c.kind == MODELS.name,
                resources.c.account == account,
                resources.c.status != DELETED,
            )
        )
        return {row.sha256: row.size for row in rows}

    def living_models(self, conn: sa.Connection, account: str) -> frozenset[str]:
        """Return the ids of the models of an account that are not deleted."""
        resources = RESOURCES.resources
        return frozenset(
            conn.execute(
                sa.select(resources.c.id).where(
                    resources.c.kind == MODELS.name,
                    resources.c.account == account,
                    resources.c.status != DELETED,
                )
            ).scalars()
        )

    def account_of(self, conn: sa.Connection, model: str) -> str | None:
        """Return the account of a model; None where there is none with this id."""
        resources = RESOURCES.resources
        found = conn.execute(
            sa.select(resources.c.account).where(
                resources.c.kind == MODELS.name, resources.c.id == model
            )
        )
        return found.scalar_one_or_none()
