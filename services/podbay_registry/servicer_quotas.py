"""The RPCs on the quotas of accounts."""

# ruff: noqa: ARG002 - every method of a servicer is given the request and its context.

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

import grpc

from podbay.v1 import account_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay_kit import audit
from podbay_kit.access import current_access
from podbay_kit.errors import invalid
from podbay_kit.quotas import changed_quota, quota_of
from podbay_kit.storage import Connection
from podbay_registry.account_room import room_used
from podbay_registry.blob_store import BlobStore
from podbay_registry.file_errors import stopping_error
from podbay_registry.quota_store import StoredQuota
from podbay_registry.store import RegistryStore

__all__ = ["QuotaServicer"]

_ALIVE_SECONDS: Final = 5.0


class QuotaServicer:
    """The part of the RegistryService that serves quotas."""

    _store: RegistryStore
    _blobs: BlobStore
    _stopping: asyncio.Event

    async def GetAccountQuota(
        self, request: pb.GetAccountQuotaRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetAccountQuotaResponse:
        """Return a quota, and what models use of it."""
        account = _named(request.account)
        current_access().permit_account(account)
        incoming = self._blobs.incoming

        def read(conn: Connection) -> tuple[StoredQuota, int]:
            self._store.accounts.check(conn, account)
            used = room_used(self._store, conn, account, incoming)
            return self._store.quotas.get(conn, account), used

        stored, used = await self._store.database.read(read)
        return pb.GetAccountQuotaResponse(
            quota=stored.quota.to_message(), model_bytes_used=used, revision=stored.revision
        )

    async def SetAccountQuota(
        self, request: pb.SetAccountQuotaRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.SetAccountQuotaResponse:
        """Change a quota."""
        account = _named(request.account)
        audit.note(account=account)
        current_access().permit_installation(account)
        changes = quota_of(request.quota)
        incoming = self._blobs.incoming

        def change(conn: Connection) -> tuple[StoredQuota, int]:
            self._store.accounts.check(conn, account)
            self._store.quotas.lock(conn, account)
            before = self._store.quotas.get(conn, account)
            after = changed_quota(before.quota, changes, request.unlimited)
            if after != before.quota:
                before = self._store.quotas.put(conn, account, after)
            return before, room_used(self._store, conn, account, incoming)

        stored, used = await self._store.feed.write(change)
        return pb.SetAccountQuotaResponse(
            quota=stored.quota.to_message(), model_bytes_used=used, revision=stored.revision
        )

    async def WatchAccountQuotas(
        self, request: pb.WatchAccountQuotasRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Send all quotas, and then those that change."""
        loop = asyncio.get_running_loop()
        feed, position, told_at, first = self._store.feed, 0, 0.0, True
        while not self._stopping.is_set():
            commits, after = feed.commits, position
            read = partial(self._store.quotas.after, revision=after)
            found, position = await self._store.database.read(read)
            if first or found or loop.time() - told_at >= _ALIVE_SECONDS:
                told_at = loop.time()
                await context.write(
                    pb.WatchAccountQuotasResponse(
                        revision=position, snapshot=first, quotas=[_message(each) for each in found]
                    )
                )
                first = False
            await feed.next_commit(self._stopping, commits)
        raise stopping_error()


def _named(account: str) -> str:
    if not account:
        raise invalid("account", "is required and must not be empty")
    return account


def _message(stored: StoredQuota) -> account_pb2.QuotaOfAccount:
    return account_pb2.QuotaOfAccount(
        account=stored.account, quota=stored.quota.to_message(), revision=stored.revision
    )
