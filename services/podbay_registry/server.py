"""The registry, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from podbay.v1 import registry_service_pb2_grpc as rpc
from podbay_kit.audit_log import AuditLog
from podbay_kit.audit_store import Retention
from podbay_kit.clock import Clock, SystemClock
from podbay_kit.quotas import Quota
from podbay_kit.serving import GrpcServer, ServerTls, ServiceRegistration
from podbay_kit.storage import Database, migrate, sqlite_url
from podbay_kit.tasks import TaskSet
from podbay_registry.account_store import Installation
from podbay_registry.audited import CHANGING
from podbay_registry.authentication import RegistryAuthenticator
from podbay_registry.blob_store import BlobStore
from podbay_registry.bootstrap import Bootstrapped, bootstrap
from podbay_registry.fetcher import Fetcher, FetchOptions
from podbay_registry.file_keeper import FileKeeper
from podbay_registry.kinds import MODELS
from podbay_registry.model_data import ModelData
from podbay_registry.model_logs import ModelLogs
from podbay_registry.operations import ResourceOperations
from podbay_registry.servicer import SERVICE_NAME, RegistryServicer
from podbay_registry.store import RegistryStore
from podbay_registry.uploads import Uploads

__all__ = ["Settings", "serving"]

_MAINTENANCE_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What a registry is started with.

    Args:
        listen: The address, as "127.0.0.1:0".
        data_dir: Where the database is.
        service_token: The secret that the services of the installation share; None where their
            certificates say who calls.
        admin_token_file: Where the administrator's token is written at the first start.
        session_manager_endpoint: The session manager's address, told to clients.
        inference_router_endpoint: The inference router's address, told to clients.
        reset_admin_token: Whether to revoke the administrator's token and make a new one.
        drain_seconds: How long calls may finish at the end.
        progress_interval: Seconds after which an idle watch sends progress.
        model_quota: The most bytes that the files of models may have; None for what the disk holds.
        stall_seconds: How long a transfer of a file may stand still.
        fetch: How models are fetched.
        database: The URL of a PostgreSQL schema; None for a SQLite file in the data directory.
        keep_model_files: Whether the folder of models in the data directory is the installation's,
            although it does not say so.
        tls: How it speaks TLS; None for plain text.
        default_quota: What accounts may have that are made from now on.
        audit: How long entries of the audit log are kept.
    """

    listen: str
    data_dir: Path
    service_token: str | None = field(repr=False)
    admin_token_file: Path
    session_manager_endpoint: str
    inference_router_endpoint: str
    reset_admin_token: bool = False
    drain_seconds: float = 10.0
    progress_interval: float = 5.0
    model_quota: int | None = None
    stall_seconds: float = 60.0
    fetch: FetchOptions = field(default_factory=FetchOptions)
    database: str | None = field(default=None, repr=False)
    keep_model_files: bool = False
    tls: ServerTls | None = None
    default_quota: Quota = field(default_factory=Quota)
    audit: Retention = field(default_factory=Retention)


@asynccontextmanager
async def serving(settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[int]:
    """Run a registry, and give its port; at the end let calls finish.

    Raises:
        StartError: It cannot start; the text says why.
    """
    clock = clock or SystemClock()
    url = settings.database or sqlite_url(settings.data_dir / "registry.sqlite3")
    await asyncio.to_thread(migrate, url, "podbay_registry")
    database = Database(url)
    tasks = TaskSet(clock=clock)
    # Watches race it: a server that stops would wait for them otherwise.
    stopping = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        store = RegistryStore(
            database,
            progress_interval=settings.progress_interval,
            default_quota=settings.default_quota,
        )
        audit = AuditLog(database, store.audit, CHANGING, clock, keep=settings.audit)
        keeper = FileKeeper(settings.data_dir / "models", shared=database.is_shared)
        stack.callback(keeper.close)
        if not settings.keep_model_files:
            await _refuse_replaced(store, keeper)
        done = await bootstrap(
            store, clock, settings.admin_token_file, reset=settings.reset_admin_token
        )
        await _prepare_files(settings, database, keeper, done)
        files = _model_files(settings, store, clock, stopping, keeper)
        stack.push_async_callback(files.blobs.close)
        stack.push_async_callback(files.fetcher.close)
        stack.push_async_callback(tasks.close)
        if keeper.try_lock():
            await files.take_over()
        server = _server(settings, store, clock, stopping, files, done.installation, audit)
        try:
            port = await server.start()
            tasks.spawn_forever("maintenance", lambda: _maintain(store, files, clock))
            tasks.spawn_forever("fetching", lambda: _keep_files(files))
            tasks.spawn_forever("audit", audit.run)
            yield port
        finally:
            stopping.set()
            await server.stop(settings.drain_seconds)
            await audit.close()


@dataclass(frozen=True, slots=True)
class _ModelFiles:
    """What has to do with the files of models."""

    blobs: BlobStore
    fetcher: Fetcher
    uploads: Uploads
    logs: ModelLogs
    keeper: FileKeeper

    async def take_over(self) -> None:
        """Begin to keep the files; the lock is held."""
        await self.blobs.start()
        self.keeper.keeping.set()


async def _refuse_replaced(store: RegistryStore, keeper: FileKeeper) -> None:
    """Raise before a first start where the database is gone and the files beside it are not.

    A first start would put another administrator's token in the place of the one that is good
    again as soon as the database is.
    """
    # Read in this order: the folder says whose it is once the database does.
    said = await asyncio.to_thread(keeper.said)
    if said and await store.database.read(store.accounts.installation) is None:
        keeper.refuse_new(said)


async def _prepare_files(
    settings: Settings, database: Database, keeper: FileKeeper, done: Bootstrapped
) -> None:
    await asyncio.to_thread(
        keeper.prepare,
        done.installation.id,
        is_new=done.is_new,
        take=settings.keep_model_files,
    )
    if not database.is_shared:
        await keeper.take_alone()


async def _keep_files(files: _ModelFiles) -> None:
    if not files.keeper.keeping.is_set():
        await files.keeper.turn()
        await files.take_over()
    await files.fetcher.run()


def _model_files(
    settings: Settings,
    store: RegistryStore,
    clock: Clock,
    stopping: asyncio.Event,
    keeper: FileKeeper,
) -> _ModelFiles:
    root = settings.data_dir / "models"
    blobs = BlobStore(store, root, quota=settings.model_quota, clock=clock)
    logs = ModelLogs(root / "logs", clock)
    return _ModelFiles(
        blobs=blobs,
        fetcher=Fetcher(store, blobs, logs, clock, settings.fetch),
        uploads=Uploads(blobs, stopping=stopping, stall_seconds=settings.stall_seconds),
        logs=logs,
        keeper=keeper,
    )


def _server(
    settings: Settings,
    store: RegistryStore,
    clock: Clock,
    stopping: asyncio.Event,
    files: _ModelFiles,
    installation: Installation,
    audit: AuditLog,
) -> GrpcServer:
    authenticator = RegistryAuthenticator(store, settings.service_token, clock)
    models = ResourceOperations(MODELS, "models", store=store, clock=clock, stopping=stopping)
    data = ModelData(
        store,
        models,
        files.blobs,
        files.uploads,
        files.logs,
        clock,
        keeper=files.keeper,
        stopping=stopping,
        stall_seconds=settings.stall_seconds,
    )
    servicer = RegistryServicer(
        store,
        authenticator,
        clock,
        models=models,
        data=data,
        blobs=files.blobs,
        fetcher=files.fetcher,
        audit=audit,
        stopping=stopping,
        installation_id=installation.id,
        session_manager_endpoint=settings.session_manager_endpoint,
        inference_router_endpoint=settings.inference_router_endpoint,
    )
    return GrpcServer(
        listen=settings.listen,
        services=[
            ServiceRegistration(
                SERVICE_NAME, lambda s: rpc.add_RegistryServiceServicer_to_server(servicer, s)
            )
        ],
        authenticator=authenticator,
        tls=settings.tls,
        audit=audit,
    )


async def _maintain(store: RegistryStore, files: _ModelFiles, clock: Clock) -> None:
    await store.maintain(clock.now())
    if files.keeper.keeping.is_set():
        await files.blobs.maintain(files.uploads.is_active)
        await files.fetcher.sweep()
        living = await store.database.read(store.model_ids)
        await files.blobs.run(files.logs.remove_others, living)
    await clock.sleep(_MAINTENANCE_SECONDS)
