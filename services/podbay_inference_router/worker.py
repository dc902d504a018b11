"""One worker: the parts put together, served, and ended in order."""

import argparse
import asyncio
import contextlib
import functools
import random
import uuid
from collections.abc import AsyncIterator
from typing import Final

from podbay.schema.identities import INFERENCE_ROUTER
from podbay.v1.inference_router_service_pb2_grpc import (
    add_InferenceRouterServiceServicer_to_server,
)
from podbay.v1.session_manager_service_pb2 import WatchRoutesResponse
from podbay_inference_router.dispatch import Dispatcher
from podbay_inference_router.exposition import (
    MetricsServer,
    push_numbers,
    tell_parent,
    write_numbers,
)
from podbay_inference_router.failed_calls import FailedCalls
from podbay_inference_router.leases import LeaseFile
from podbay_inference_router.meters import Meters, Numbers, gauges
from podbay_inference_router.router_shares import RouterShares
from podbay_inference_router.servicer import RouterServicer
from podbay_inference_router.settings import Settings
from podbay_inference_router.share_link import ShareLink, boot_seconds
from podbay_inference_router.shares import LimitShares
from podbay_inference_router.slots import READY_LINE
from podbay_inference_router.succession import SERVE_ON_SECONDS, Afterlife
from podbay_inference_router.table import RouteTable
from podbay_inference_router.tenancy import AccountLoad
from podbay_inference_router.tokens import TokenVerifier, prepare
from podbay_inference_router.upstream import ConnectionPools
from podbay_inference_router.watch import RouteWatcher
from podbay_kit.process import Stop, write_address_file
from podbay_kit.serving import GrpcServer, ServerTls, ServiceRegistration, split_address
from podbay_kit.tasks import TaskSet
from podbay_kit.tracing import configured_spans
from podbay_kit.transport import transport_of

__all__ = ["Worker", "serve"]

_SERVICE: Final = "podbay.v1.InferenceRouterService"
# What still runs is ended this long before the grace is over, so that its callers hear why.
_ABANDON_SECONDS: Final = 0.5
# gRPC does not always notice that a connection was reset (decision 0021): until it asks, the calls
# that came over it go on for nobody.
_KEEPALIVE_SECONDS: Final = 5.0
# How long the first start waits for the session manager before it listens nevertheless: as long as
# one may take that starts anew, too. Clients wait for who listens, and ask one that refuses them
# again in ever longer pauses.
_SYNC_SECONDS: Final = 4.0


class Worker:
    """A router in this process.

    Args:
        listen: The address, as "127.0.0.1:0".
        session_manager: The session manager's "host:port"; of several all, by commas.
        service_token: The token of the services; None where certificates say who calls.
        settings: The limits.
        leases: Shares limits with the other workers; None where there are none.
        tls: How it speaks TLS; None for plain text.
        router_id: Which router this is a worker of, to those that give shares of limits.
    """

    def __init__(
        self,
        *,
        listen: str,
        session_manager: str,
        service_token: str | None,
        settings: Settings,
        leases: LeaseFile | None = None,
        tls: ServerTls | None = None,
        router_id: str = "",
    ) -> None:
        loop = asyncio.get_running_loop()
        self._pools = ConnectionPools(settings, loop)
        self._table = RouteTable(self._pools.connect, settings)
        self._verifier = TokenVerifier()
        failed_calls = FailedCalls(loop.time)
        self._watcher = RouteWatcher(
            session_manager,
            service_token,
            f"worker-{settings.worker_index}",
            self._on_routes,
            certificate=tls.certificate if tls else None,
            running=self._running,
            failed_calls=failed_calls,
        )
        self._limits = LimitShares()
        self._shares = RouterShares(self._limits, self._table, self._accounts, leases, boot_seconds)
        self._link = ShareLink(
            session_manager,
            service_token,
            router_id or uuid.uuid4().hex,
            settings.workers,
            self._limits,
            self._shares.uses,
            self._on_shares,
            certificate=tls.certificate if tls else None,
        )
        self.meters = Meters() if settings.meters else None
        self.dispatcher = Dispatcher(
            self._table,
            settings,
            loop,
            random.random,
            report=self._watcher.report,
            meters=self.meters,
            spans=configured_spans("podbay_inference_router"),
            leases=leases,
            shares=self._shares,
            on_want=self._link.want,
            failed_calls=failed_calls,
        )
        self._servicer = RouterServicer(
            self.dispatcher, self._verifier, away=lambda: self._watcher.away
        )
        self._server = GrpcServer(
            listen=listen,
            services=[
                ServiceRegistration(
                    _SERVICE,
                    functools.partial(add_InferenceRouterServiceServicer_to_server, self._servicer),
                )
            ],
            authenticator=None,
            reuse_port=settings.workers > 1,
            # A body that is too large must get in to be refused with a reason, and a message may
            # carry several calls.
            max_message_bytes=2 * settings.max_body_bytes,
            trace_rpcs=False,  # calls have spans, however they come
            tls=tls,
            keepalive_seconds=_KEEPALIVE_SECONDS,
        )
        self._tasks = TaskSet()
        self._synced = asyncio.Event()
        self._listening = False

    async def start(self, *, sync_seconds: float | None = _SYNC_SECONDS) -> int:
        """Serve, and return the port.

        Args:
            sync_seconds: How long to wait for the routes before it listens; None for as long as
                that takes. A worker that listens without routes takes calls away from others, only
                to refuse them.
        """
        self._tasks.spawn_forever("watch-routes", self._watcher.run)
        self._tasks.spawn("share-limits", self._link.run())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(sync_seconds):
                await self._synced.wait()
                await self._link.settled.wait()
        port = await self._server.start(serving=self._table.synced)
        # In a thread: connections are taken meanwhile.
        self._tasks.spawn("prepare-tokens", asyncio.to_thread(prepare))
        self._listening = True
        self._server.set_serving(self._table.synced)
        return port

    def numbers(self) -> Numbers:
        """Return what was counted, and how things stand."""
        return {
            "counters": {} if self.meters is None else self.meters.numbers(),
            "gauges": gauges(self._table, self.dispatcher.active),
        }

    async def stop(self, grace: float) -> None:
        """Finish what runs within `grace` seconds, refuse what is new, and end."""
        self._server.set_serving(False)
        self._servicer.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, grace - _ABANDON_SECONDS)):
                await self._servicer.finished()
        self._servicer.abandon()
        with contextlib.suppress(TimeoutError):
            # Streams that end with their last answers tell their clients what was not begun.
            async with asyncio.timeout(min(grace, _ABANDON_SECONDS)):
                await self._servicer.finished()
        await self._server.stop(min(grace, _ABANDON_SECONDS))
        await self._link.leave(_ABANDON_SECONDS)
        await self._tasks.close()
        await self._pools.close()

    def _on_shares(self) -> None:
        self._table.set_sole(self._limits.sole)
        self.dispatcher.on_shares()

    def _accounts(self) -> list[AccountLoad]:
        return self.dispatcher.accounts()

    def _running(self) -> dict[str, int]:
        return self.dispatcher.running()

    def _on_routes(self, message: WatchRoutesResponse) -> None:
        was_synced = self._table.synced
        changes = self._table.apply(message, asyncio.get_running_loop().time())
        if changes.keys:
            self._verifier.set_keys(self._table.keys)
        self.dispatcher.on_changes(changes)
        for session in changes.revoked:
            self._servicer.revoke(session)
        if self._table.synced and not was_synced:
            self._synced.set()
            if self._listening and not self.dispatcher.draining:
                self._server.set_serving(True)


async def serve(
    options: argparse.Namespace,
    settings: Settings,
    stop: Stop,
    afterlife: Afterlife | None = None,
) -> None:
    """Run a worker until it is asked to stop.

    Args:
        options: The command line.
        settings: The limits.
        stop: The wish to stop.
        afterlife: What it waits for when its router has died; None where it ends with it.
    """
    transport = transport_of(
        options, INFERENCE_ROUTER, peers=options.session_manager_endpoint.split(",")
    )
    worker = Worker(
        listen=options.listen,
        session_manager=options.session_manager_endpoint,
        service_token=transport.service_token,
        tls=transport.tls,
        settings=settings,
        leases=(
            LeaseFile(options.lease_file, settings.worker_index, settings.workers)
            if settings.leases
            else None
        ),
        router_id=options.router_id,
    )
    patience: float | None = _SYNC_SECONDS
    if options.replacement:
        patience = None
    elif options.take_over:
        # Others serve for so long.
        patience = SERVE_ON_SECONDS
    start = asyncio.ensure_future(worker.start(sync_seconds=patience))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({start, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not start.done():
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
        await worker.stop(0)
        return
    port = start.result()
    if afterlife is not None:
        afterlife.listens = True
    host, _ = split_address(options.listen)
    async with _shown(options, worker):
        if options.worker is None:
            if options.address_file is not None:
                write_address_file(options.address_file, host, port)
        else:
            tell_parent(READY_LINE)
        await stop.wait()
        await worker.stop(options.drain_seconds)


@contextlib.asynccontextmanager
async def _shown(options: argparse.Namespace, worker: Worker) -> AsyncIterator[None]:
    """Show the worker's numbers where somebody wants them: itself, or through its parent."""
    if options.metrics_listen is None:
        yield
    elif options.worker is None:
        server = MetricsServer(options.metrics_listen, lambda: _alone(worker))
        try:
            yield
        finally:
            await server.stop()
    else:
        pushing = asyncio.create_task(push_numbers(worker.numbers), name="push-numbers")
        try:
            yield
        finally:
            pushing.cancel()
            await asyncio.gather(pushing, return_exceptions=True)
            write_numbers(worker.numbers())


def _alone(worker: Worker) -> Numbers:
    numbers = worker.numbers()
    return {**numbers, "gauges": {**numbers["gauges"], "workers": 1}}
