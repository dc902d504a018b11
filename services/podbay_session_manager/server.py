"""The session manager, put together."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from podbay.v1.session_manager_service_pb2_grpc import (
    add_SessionManagerServiceServicer_to_server,
)
from podbay_kit.audit_log import AuditLog
from podbay_kit.audit_store import AuditStore, Retention
from podbay_kit.clock import Clock, SystemClock
from podbay_kit.errors import ServiceError
from podbay_kit.model_cache import ModelCache
from podbay_kit.process import SettingsError
from podbay_kit.serving import GrpcServer, ServerTls, ServiceRegistration, split_address
from podbay_kit.storage import Database, migrate, sqlite_url
from podbay_kit.tasks import TaskSet
from podbay_session_manager.announcer import Announcer
from podbay_session_manager.audited import CHANGING
from podbay_session_manager.auth import RegistryAuthenticator
from podbay_session_manager.declared_nodes import DeclaredNode
from podbay_session_manager.driver_set import DriverSet, NodeDriverFactory
from podbay_session_manager.drivers.attached import AttachedDriver
from podbay_session_manager.drivers.containers.settings import DockerSettings
from podbay_session_manager.drivers.contract import DriverUnreachableError, ReplicaDriver
from podbay_session_manager.drivers.inprocess import InProcessDriver
from podbay_session_manager.drivers.process import ProcessDriver
from podbay_session_manager.key_ring import DEFAULT_KEY_AGE, KeyRing
from podbay_session_manager.leadership import Leadership, front
from podbay_session_manager.lease_keeper import Lease, LeaseKeeper, boot_seconds
from podbay_session_manager.lease_marks import LifeMarks
from podbay_session_manager.lease_store import LeaseStore
from podbay_session_manager.live_state import LiveState
from podbay_session_manager.model_mounts import ModelMounts, mounted_models
from podbay_session_manager.node_book import NodeBook
from podbay_session_manager.policy import Policy
from podbay_session_manager.quota_book import QuotaBook
from podbay_session_manager.quota_store import QuotaStore
from podbay_session_manager.reconciler import Reconciler
from podbay_session_manager.registry_client import RegistryClient
from podbay_session_manager.route_acks import RouteAcks
from podbay_session_manager.routes import RouteTable
from podbay_session_manager.runner_kinds import DEFAULT_KINDS, RunnerKind
from podbay_session_manager.servicer import SERVICE_NAME
from podbay_session_manager.servicer_base import Parts
from podbay_session_manager.share_desk import ShareDesk
from podbay_session_manager.store import SessionStore
from podbay_session_manager.tables import AUDIT

__all__ = ["DRIVERS", "Settings", "serving"]

_LOG = logging.getLogger(__name__)

DRIVERS: Final = ("process", "inprocess", "attached", "docker")
"""The names of the drivers that can be on."""

_DOCKER: Final = "docker"
_MAINTENANCE_SECONDS: Final = 3600.0
_KEPT_LOGS_SECONDS: Final = 7 * 24 * 3600.0
_DROP_SECONDS: Final = 600.0
_TERM_BITS: Final = 41  # room for more changes of routes than a term can have
# What may come on top of the longest stop grace until the last replica is gone.
_HALT_SLACK_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What a session manager is started with.

    Args:
        listen: The address, as "127.0.0.1:0".
        data_dir: Where the database, the replicas and their logs are.
        service_token: The secret that the services of the installation share; None where their
            certificates say who calls.
        registry_endpoint: The registry's address.
        drivers: The names of the drivers that are on, in the order of preference.
        mock_hosts: Where processes say that they host mocks; the data directory's own folder unless
            given.
        stop_replicas_on_exit: Whether replicas end together with the session manager.
        drain_seconds: How long calls may finish at the end.
        progress_interval: Seconds after which an idle watch sends progress.
        policy: How patient to be.
        nodes: The nodes that a file declares; None where there is no file.
        node_drivers: Makes the drivers of declared nodes, instead of the driver docker's own.
        model_cache_bytes: The most bytes of models' files to keep for replicas; None for what the
            disk holds.
        gpu_probe_image: An image with nvidia-smi, to look at nodes with GPUs; empty for no look.
        gpu_probe_seconds: The pause between two looks at the GPUs of a node, and into the replicas
            that have some.
        allow_root: Whether images that name no user run as root.
        unbounded_scratch: Whether scratch space and images' volumes may take the disk of a node
            whose engine cannot bound them.
        copy_model_files: Whether models' files are copied also to engines of this machine, as where
            this process is in a container itself.
        runner_kinds: How the kinds of runners are run, by kind.
        allow_egress: Whether replicas may open connections to the outside that ask for it.
        database: The URL of a PostgreSQL schema; None for a SQLite file in the data directory.
        key_age: Seconds after which a key of session tokens is followed by another.
        tls: How it speaks TLS; None for plain text.
        lease_seconds: For how long this process leads without a sign of life from it.
        advertise_address: Where others reach it, as "10.0.0.1:7102"; where it listens unless given.
        share_seconds: For how long a router may use its shares of limits without a word from here.
        audit: How long entries of the audit log are kept.
    """

    listen: str
    data_dir: Path
    service_token: str | None = field(repr=False)
    registry_endpoint: str
    drivers: Sequence[str] = ()
    mock_hosts: Path | None = None
    stop_replicas_on_exit: bool = False
    drain_seconds: float = 10.0
    progress_interval: float = 5.0
    policy: Policy = field(default_factory=Policy)
    nodes: Sequence[DeclaredNode] | None = None
    node_drivers: NodeDriverFactory | None = None
    model_cache_bytes: int | None = None
    gpu_probe_image: str = ""
    gpu_probe_seconds: float = 300.0
    allow_root: bool = False
    unbounded_scratch: bool = False
    copy_model_files: bool = False
    runner_kinds: Mapping[str, RunnerKind] = field(default_factory=lambda: DEFAULT_KINDS)
    allow_egress: bool = False
    database: str | None = field(default=None, repr=False)
    key_age: float = DEFAULT_KEY_AGE
    tls: ServerTls | None = None
    lease_seconds: float = 5.0
    advertise_address: str = ""
    share_seconds: float = 20.0
    audit: Retention = field(default_factory=Retention)


@asynccontextmanager
async def serving(settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[int]:
    """Run a session manager, and give its port; at the end let calls finish.

    Where another one leads, this one stands by. Replicas go on afterwards where their driver lets
    them, unless the settings say otherwise.

    Raises:
        SettingsError: A node of the file is declared in a way that does not fit the replicas on it.
        DatabaseUnusableError: The database is damaged or of a newer version.
        ListenError: The address cannot be had.
    """
    clock = clock or SystemClock()
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    url = settings.database or sqlite_url(settings.data_dir / "session-manager.sqlite3")
    await asyncio.to_thread(migrate, url, "podbay_session_manager")
    database = Database(url)
    registry = RegistryClient(
        settings.registry_endpoint,
        settings.service_token,
        settings.tls.certificate if settings.tls else None,
    )
    holder = uuid.uuid4().hex
    marks = LifeMarks(settings.data_dir / "leaders", holder)
    keeper = LeaseKeeper(LeaseStore(database), marks, holder, settings.lease_seconds)
    audit = AuditLog(
        database.guarded(lambda conn: leadership.guard(conn)),  # noqa: PLW0108 # made below
        AuditStore(AUDIT),
        CHANGING,
        clock,
        keep=settings.audit,
        writable=lambda: leadership.parts is not None,
    )
    lead = partial(_leading, settings, clock, database, registry, audit)
    leadership = Leadership(keeper, lead, lambda leads: server.set_serving(leads, well=True))
    server = _server(settings, registry, clock, leadership, audit)
    try:
        port = await server.start(serving=False)
        keeper.address = _advertised(settings, port)
        await leadership.start()
        server.set_serving(leadership.parts is not None, well=True)
        try:
            yield port
        finally:
            if settings.stop_replicas_on_exit and leadership.parts is not None:
                await _halt(leadership.parts.state, leadership.parts.reconciler)
    finally:
        leadership.stop_streams()
        await server.stop(settings.drain_seconds)
        await leadership.stop()
        # What was refused while it stood by is told at least in its own log.
        await audit.close()
        marks.close(keep=not await keeper.release())
        await registry.close()
        await database.close()


@asynccontextmanager
async def _leading(
    settings: Settings,
    clock: Clock,
    database: Database,
    registry: RegistryClient,
    audit: AuditLog,
    lease: Lease,
) -> AsyncIterator[Parts]:
    """Put together what leads in one term, and take it apart again."""
    drivers = DriverSet(_make_drivers(settings, lease.term), permitted=lambda: lease.valid)
    cache = ModelCache(
        settings.data_dir / "models",
        registry.model_files,
        quota=settings.model_cache_bytes,
        clock=clock,
    )
    try:
        await cache.start()
        fenced = database.guarded(lease.guard)
        models = ModelMounts(cache)
        running = _running(settings, clock, fenced, drivers, registry, models, audit, lease)
        async with running as parts:
            yield parts
    finally:
        await drivers.close()
        await cache.close()


@asynccontextmanager
async def _running(
    settings: Settings,
    clock: Clock,
    database: Database,
    drivers: DriverSet,
    registry: RegistryClient,
    models: ModelMounts,
    audit: AuditLog,
    lease: Lease,
) -> AsyncIterator[Parts]:
    store = SessionStore(database, progress_interval=settings.progress_interval)
    # Larger than what any earlier term gave out.
    table = RouteTable(lease.term << _TERM_BITS)
    state = LiveState(store, Announcer(table, RouteAcks()), clock)
    await state.load()
    models.keep(mounted_models(state.sessions.values()))
    drivers.make = _node_drivers(settings, await store.installation_id(), models)
    nodes = NodeBook(drivers, store.nodes, clock, most_seconds=settings.gpu_probe_seconds)
    await nodes.load()
    if settings.nodes is not None:
        try:
            await nodes.sync_file(settings.nodes, state.holders())
        except ServiceError as error:
            raise SettingsError(f"The file of nodes cannot be used: {error.message}") from error
    await nodes.refresh()
    reconciler = Reconciler(
        state, drivers, nodes, settings.policy, registry.model_state, quotas=lambda: quotas.quotas
    )
    keys = KeyRing(
        store.keys,
        await store.installation_id(),
        clock,
        announce=state.announce_keys,
        heard=state.routers_have,
        max_age=settings.key_age,
    )
    await keys.load()
    quotas = QuotaBook(registry, QuotaStore(database), state, clock, reconciler.hint)
    await quotas.load()
    shares = ShareDesk(
        store,
        state,
        lambda: quotas.in_flight,
        settings.share_seconds,
        boot_seconds,
        lambda: lease.valid,
    )
    await shares.load()
    parts = Parts(
        store=store,
        state=state,
        reconciler=reconciler,
        nodes=nodes,
        drivers=drivers,
        registry=registry,
        keys=keys,
        clock=clock,
        stopping=asyncio.Event(),
        kinds=settings.runner_kinds,
        quotas=quotas,
        audit=audit,
        allow_egress=settings.allow_egress,
        term=lease.term,
        shares=shares,
    )
    tasks = TaskSet(clock=clock)
    try:
        reconciler.start()
        tasks.spawn_forever("shares", shares.tick)
        tasks.spawn_forever("maintenance", lambda: _maintain(parts, models))
        tasks.spawn_forever("signing-keys", keys.run)
        tasks.spawn_forever("quotas", quotas.run)
        tasks.spawn_forever("audit", audit.run)
        yield parts
    finally:
        parts.stopping.set()
        await reconciler.close()
        await nodes.close()
        await tasks.close()
        await keys.close()
        await audit.close()


def _advertised(settings: Settings, port: int) -> str:
    """Return where others reach this process."""
    if settings.advertise_address:
        return settings.advertise_address
    host, _ = split_address(settings.listen)
    if host in {"0.0.0.0", "::"}:  # compared, not listened on
        host = socket.gethostname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _make_drivers(settings: Settings, term: int) -> list[ReplicaDriver]:
    # Each has a folder of its own: what lies there is its own.
    made: list[ReplicaDriver] = []
    for name in settings.drivers:
        if name == ProcessDriver.name:
            made.append(ProcessDriver(settings.data_dir / "replicas", term=term))
        elif name == InProcessDriver.name:
            made.append(InProcessDriver(settings.data_dir / "replicas-inprocess"))
        elif name == AttachedDriver.name:
            hosts = settings.mock_hosts or settings.data_dir / "mock-hosts"
            made.append(AttachedDriver(settings.data_dir / "replicas-attached", hosts))
        elif name != _DOCKER:
            raise SettingsError(f"There is no driver {name!r}. There are: {', '.join(DRIVERS)}.")
    return made


def _node_drivers(
    settings: Settings, installation: str, models: ModelMounts
) -> NodeDriverFactory | None:
    """Return what makes the drivers of declared nodes; None where none can be declared."""
    if _DOCKER not in settings.drivers:
        if settings.nodes:
            raise SettingsError(
                "Nodes are declared, and no driver reaches them: add docker to --drivers."
            )
        return None
    if settings.node_drivers is not None:
        return settings.node_drivers
    from podbay_session_manager.drivers.containers.factory import (  # noqa: PLC0415 # heavy
        make_docker_driver,
    )

    containers = DockerSettings(
        installation=installation,
        folder=settings.data_dir / "replicas-docker",
        resolve_mount=models.resolve,
        # Not before any earlier start, and no two starts are alike.
        generation=str(time.time_ns()),
        allow_egress=settings.allow_egress,
        allow_root=settings.allow_root,
        unbounded_scratch=settings.unbounded_scratch,
        copy_data=settings.copy_model_files,
        gpu_probe_image=settings.gpu_probe_image,
        gpu_probe_seconds=settings.gpu_probe_seconds,
    )
    return partial(make_docker_driver, settings=containers)


def _server(
    settings: Settings,
    registry: RegistryClient,
    clock: Clock,
    leadership: Leadership,
    audit: AuditLog,
) -> GrpcServer:
    servicer = front(leadership.leading)
    return GrpcServer(
        listen=settings.listen,
        services=[
            ServiceRegistration(
                SERVICE_NAME,
                lambda server: add_SessionManagerServiceServicer_to_server(servicer, server),
            )
        ],
        authenticator=RegistryAuthenticator(registry, settings.service_token, clock),
        tls=settings.tls,
        audit=audit,
    )


async def _halt(state: LiveState, reconciler: Reconciler) -> None:
    """End all replicas, which are started again when a session manager is."""
    grace = max((s.serving.stop_grace for s in state.sessions.values()), default=0.0)
    try:
        async with asyncio.timeout(grace + _HALT_SLACK_SECONDS):
            await reconciler.halt()
    except TimeoutError:
        _LOG.warning("replicas are left: they did not end in time")


async def _maintain(parts: Parts, models: ModelMounts) -> None:
    """Forget what is no longer kept."""
    used = mounted_models(parts.state.sessions.values())
    models.keep(used)
    now = parts.clock.now()
    await parts.store.maintain(now)
    keep = await parts.store.replica_ids_since(now.timestamp() - _KEPT_LOGS_SECONDS)
    await asyncio.gather(*(_drop(driver, keep, used) for driver in parts.drivers.values()))
    await parts.clock.sleep(_MAINTENANCE_SECONDS)


async def _drop(driver: ReplicaDriver, logs: frozenset[str], data: frozenset[str]) -> None:
    try:
        async with asyncio.timeout(_DROP_SECONDS):
            await driver.drop_logs(logs)
            await driver.drop_data(data)
    except (DriverUnreachableError, TimeoutError) as error:
        _LOG.warning("old logs and copies of %s are kept for now: %s", driver.name, error)
