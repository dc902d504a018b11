"""The registry's store: accounts, tokens and resources in one database."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from podbay.schema import platform
from podbay_kit.audit_store import AuditStore
from podbay_kit.quotas import Quota
from podbay_kit.resource_feed import ChangeFeed
from podbay_kit.resources import Inserted, RequestKey, ResourceStore
from podbay_kit.storage import Database
from podbay_registry.account_store import Account, AccountStore
from podbay_registry.kinds import MODELS, SERVICES
from podbay_registry.quota_store import QuotaStore
from podbay_registry.tables import AUDIT, RESOURCES
from podbay_registry.token_store import TokenStore

__all__ = ["RegistryStore"]


class RegistryStore:
    """What the registry keeps. The methods run within a transaction of the caller.

    Args:
        database: Where it is kept.
        progress_interval: Seconds after which an idle watch sends progress.
        default_quota: What accounts may have that are made from now on.
    """

    def __init__(
        self,
        database: Database,
        *,
        progress_interval: float = 5.0,
        default_quota: Quota | None = None,
    ) -> None:
        self.database = database
        self._default_quota = default_quota or Quota()
        self.accounts = AccountStore()
        self.tokens = TokenStore()
        self.resources = ResourceStore(RESOURCES)
        self.audit = AuditStore(AUDIT)
        self.quotas = QuotaStore(self.resources.log)
        self.feed = ChangeFeed(database, self.resources, progress_interval=progress_interval)

    def add_account(self, conn: sa.Connection, account_id: str, now: datetime) -> Account:
        """Make an account, with the quota that accounts begin with.

        Raises:
            ServiceError: ALREADY_EXISTS.
        """
        account = self.accounts.add(conn, account_id, now)
        if self._default_quota != Quota():
            self.quotas.put(conn, account_id, self._default_quota)
        return account

    def add_model(
        self,
        conn: sa.Connection,
        model: platform.Model,
        *,
        now: datetime,
        request: RequestKey | None,
    ) -> Inserted[platform.Model]:
        """Register a model.

        Raises:
            ServiceError: ACCOUNT_NOT_FOUND or REQUEST_ID_REUSED.
        """
        self.accounts.check(conn, model.account)
        return self.resources.insert(conn, MODELS, model, now=now, request=request)

    def add_service(
        self,
        conn: sa.Connection,
        service: platform.InferenceService,
        *,
        now: datetime,
        request: RequestKey | None,
    ) -> Inserted[platform.InferenceService]:
        """Register a service.

        Raises:
            ServiceError: ACCOUNT_NOT_FOUND or REQUEST_ID_REUSED.
        """
        self.accounts.check(conn, service.account)
        return self.resources.insert(conn, SERVICES, service, now=now, request=request)

    def model_ids(self, conn: sa.Connection) -> frozenset[str]:
        """Return the ids of all models, deleted ones too."""
        resources = RESOURCES.resources
        query = sa.select(resources.c.id).where(resources.c.kind == MODELS.name)
        return frozenset(conn.execute(query).scalars())

    async def maintain(self, now: datetime) -> None:
        """Forget what is no longer kept: old changes, request ids, and deleted resources."""
        await self.database.write(lambda conn: self.resources.maintain(conn, now=now))
