"""A gRPC server as every service runs it: health, reflection, limits, TLS, a clean end."""

from __future__ import annotations

import asyncio
import functools
import logging
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from podbay_kit.audit import CallLog
from podbay_kit.auth import Authenticator
from podbay_kit.interceptors import RECHECK_SECONDS, PodbayInterceptor
from podbay_kit.ports import hold_port
from podbay_kit.reflection import REFLECTION_SERVICE, LazyReflection
from podbay_kit.rpc_rules import RULES, Rule
from podbay_kit.starting import ListenError, join_address, split_address
from podbay_kit.tls_credentials import server_credentials
from podbay_kit.tracing import configured_spans

if TYPE_CHECKING:
    from podbay_kit.tls_files import LiveTls

__all__ = [
    "KEEPALIVE_SECONDS",
    "GrpcServer",
    "ListenError",
    "ServerTls",
    "ServiceRegistration",
    "join_address",
    "server_options",
    "split_address",
]

_LOG = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 64 << 20
# Room for the other fields of a message whose body is as large as a body may be.
KEEPALIVE_SECONDS = 30.0
"""How long a connection may be silent before a server asks whether its other end is still there."""
_MESSAGE_SLACK = 1 << 20
_STREAMS_PER_CONNECTION = 1_000
_MOST_CONNECTIONS = 100_000
# Of one port, and the fewest connections that one of them takes.
_MOST_QUEUES = 64
_CONNECTIONS_PER_QUEUE = 64
# For the last answers to leave, once nothing runs any more.
_ENDING_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class ServiceRegistration:
    """A servicer and how it gets into a server."""

    name: str
    """The full name, as "podbay.v1.RegistryService"."""
    add: Callable[[grpc.aio.Server], None]
    """Adds the servicer: the generated add_…_to_server with its servicer."""


@dataclass(slots=True)
class ServerTls:
    """How a server speaks TLS.

    gRPC for Python can demand a certificate of clients, or not look at any: it cannot let them
    choose. So services have an address of their own, where each must show its certificate.

    Attributes:
        certificate: The server's own certificate.
        service_listen: Where other services connect, as "127.0.0.1:7111"; None for nowhere.
        require_client_certificates: Whether also clients must show a certificate.
        service_port: The port for other services, once the server listens; None for none.
    """

    certificate: LiveTls
    service_listen: str | None = None
    require_client_certificates: bool = False
    service_port: int | None = field(default=None, init=False)


def open_files_limit() -> int:
    """Return how many files this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def connections_for(open_files: int) -> int:
    """Return how many connections a server takes: half of what the process may have open. Pure.

    Args:
        open_files: How many files the process may have open; -1 for as many as it likes.
    """
    if open_files < 0:
        return _MOST_CONNECTIONS
    return max(1, min(_MOST_CONNECTIONS, open_files // 2))


def queues_for(connections: int) -> int:
    """Return over how many queues a server spreads its connections. Pure.

    gRPC's asyncio server takes the streams of all its connections out of one queue, one by one, at
    some 100 µs each: whoever opens 200 streams at once holds everybody else up for 20 ms. So a
    port has several servers, among which the kernel spreads connections by their addresses: a
    burst is then in the way of the few that share its queue, and takes turns with all others.

    Args:
        connections: How many connections the server takes.
    """
    if sys.platform != "linux":  # elsewhere all connections go to one of the sockets of a port
        return 1
    return max(1, min(_MOST_QUEUES, connections // _CONNECTIONS_PER_QUEUE))


def server_options(
    *,
    reuse_port: bool,
    max_message_bytes: int,
    connections: int,
    keepalive_seconds: float = KEEPALIVE_SECONDS,
) -> list[tuple[str, int]]:
    """Return the channel arguments of a server.

    `so_reuseport` is on by default in gRPC, so that two services could share a port in silence;
    it is on only for a port that is held (`podbay_kit.ports`).
    """
    return [
        ("grpc.so_reuseport", int(reuse_port)),
        ("grpc.max_receive_message_length", max_message_bytes + _MESSAGE_SLACK),
        ("grpc.max_send_message_length", max_message_bytes + _MESSAGE_SLACK),
        # Both sides must agree on pings, or the server answers them with GOAWAY.
        ("grpc.keepalive_time_ms", round(keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_pings_without_data", 0),
        # Streams that a client opens and resets at once count, too, until they are cleared away:
        # beyond this gRPC ends the connection. Without, 20,000 of them held everybody up for
        # seconds and took 200 MB (`make fuzz`). Clients wait with what is more by themselves.
        ("grpc.max_concurrent_streams", _STREAMS_PER_CONNECTION),
        # Whoever connects and says nothing holds a file: not for the two minutes of the default.
        ("grpc.server_handshake_timeout_ms", 10_000),
        # So that connections alone never take the files that the service itself needs.
        ("grpc.max_allowed_incoming_connections", connections),
    ]


class _HealthServicer(health.aio.HealthServicer):
    """Health whose watches end with the server, instead of holding up its stop."""

    def __init__(self, stopping: asyncio.Event) -> None:
        super().__init__()
        self._stopping = stopping

    async def Watch(  # noqa: N802 # the name is the protocol's
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> None:
        watch = asyncio.ensure_future(super().Watch(request, context))
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({watch, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (watch, stop):
                task.cancel()
            await asyncio.gather(watch, stop, return_exceptions=True)


class GrpcServer:
    """A `grpc.aio` server with health, reflection, interceptors and limits.

    Args:
        listen: The address, as "127.0.0.1:0".
        services: What it serves.
        authenticator: Who calls; None where the service authenticates by itself.
        reuse_port: Whether workers of the same service share the port.
        max_message_bytes: The largest body in either direction.
        reject_unknown_fields: Whether requests with unknown fields are refused.
        trace_rpcs: Whether RPCs get spans where tracing is set up; a service that makes spans of
            its own has none of these.
        rules: What each RPC needs, by its full name, where there is an authenticator.
        recheck_seconds: How often the token of a stream is looked at again.
        tls: How it speaks TLS; None for plain text.
        audit: Takes note of what is changed and refused; None for a service without such a log.
        keepalive_seconds: How long a connection may be silent before its other end is asked
            whether it is there; 10 s without an answer end it.
    """

    def __init__(
        self,
        *,
        listen: str,
        services: Sequence[ServiceRegistration],
        authenticator: Authenticator | None,
        reuse_port: bool = False,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        reject_unknown_fields: bool = True,
        trace_rpcs: bool = True,
        rules: Mapping[str, Rule] = RULES,
        recheck_seconds: float = RECHECK_SECONDS,
        tls: ServerTls | None = None,
        audit: CallLog | None = None,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
    ) -> None:
        self._listen = listen
        self._tls = tls
        self._services = tuple(services)
        self.stopping = asyncio.Event()
        """Set when the server is about to stop: long streams race it."""
        self._interceptor = PodbayInterceptor(
            authenticator,
            reject_unknown_fields=reject_unknown_fields,
            spans=configured_spans("podbay_kit") if trace_rpcs else None,
            rules=rules,
            recheck_seconds=recheck_seconds,
            installation=tls.certificate.identity.installation if tls else None,
            audit=audit,
        )
        connections = connections_for(open_files_limit())
        queues = queues_for(connections)
        # Workers of one service listen on a port that their parent holds.
        self._holds = queues > 1 and not reuse_port
        self._holders = ExitStack()
        options = server_options(
            reuse_port=reuse_port or self._holds,
            max_message_bytes=max_message_bytes,
            connections=max(1, connections // queues),
            keepalive_seconds=keepalive_seconds,
        )
        self._servers = [
            grpc.aio.server(interceptors=[self._interceptor], options=options)
            for _ in range(queues)
        ]
        self._health = _HealthServicer(self.stopping)
        self._health_tasks: set[asyncio.Task[None]] = set()
        told = (service.name for service in self._services)
        reflection = LazyReflection([*told, health.SERVICE_NAME, REFLECTION_SERVICE])
        for server in self._servers:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
            for service in self._services:
                service.add(server)
            server.add_generic_rpc_handlers([reflection])

    async def start(self, *, serving: bool = True) -> int:
        """Listen, and return the port.

        Args:
            serving: Whether health checks are told at once that the process is well and that its
                services take calls.

        Raises:
            ListenError: An address cannot be had.
        """
        tls = self._tls
        if tls is None:
            port = self._add_port(self._listen, lambda: None)
        else:
            public = functools.partial(
                server_credentials,
                tls.certificate,
                require_client_certificate=tls.require_client_certificates,
            )
            port = self._add_port(self._listen, public)
            if tls.service_listen is not None:
                mutual = functools.partial(
                    server_credentials, tls.certificate, require_client_certificate=True
                )
                tls.service_port = self._add_port(tls.service_listen, mutual)
        await self._set_health(_health_of(serving))
        for server in self._servers:
            await server.start()
        return port

    def _add_port(
        self, listen: str, credentials: Callable[[], grpc.ServerCredentials | None]
    ) -> int:
        """Open a port at all servers, each with credentials of its own, and return it."""
        host, _ = split_address(listen)
        if self._holds:
            holder, listen = hold_port(listen)
            self._holders.enter_context(holder)
        port = 0
        for server in self._servers:
            port = self._add_port_to(server, listen, credentials())
            listen = join_address(host, port)
        return port

    def _add_port_to(
        self, server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None
    ) -> int:
        try:
            port = (
                server.add_insecure_port(listen)
                if credentials is None
                else server.add_secure_port(listen, credentials)
            )
        except RuntimeError as error:
            raise ListenError(
                f"Cannot listen on {listen}: the port is taken, or the address is not one "
                "of this machine. Choose another port, or 0 for a free one."
            ) from error
        if port == 0:
            raise ListenError(f"Cannot listen on {listen}: it is not a usable address.")
        return port

    def set_serving(self, serving: bool, *, well: bool | None = None) -> None:
        """Tell health checks whether the services take calls.

        Args:
            serving: Whether they do.
            well: Whether the process as a whole is well, as one that stands by is; as `serving`
                unless given.
        """
        overall = None if well is None else _health_of(well)
        task = asyncio.get_running_loop().create_task(
            self._set_health(_health_of(serving), overall), name="set-health"
        )
        self._health_tasks.add(task)
        task.add_done_callback(self._health_tasks.discard)

    async def stop(self, grace: float) -> None:
        """Refuse what is new, let what runs finish within `grace` seconds, then end it."""
        await self._set_health(_health_of(serving=False))
        self.stopping.set()
        self._interceptor.refuse()
        try:
            async with asyncio.timeout(grace):
                await self._interceptor.idle()
        except TimeoutError:
            _LOG.warning(
                "%d calls did not end within %g s and are broken off",
                self._interceptor.running,
                grace,
            )
        # Only now: a gRPC server that is told to stop while calls run can crash the process when
        # somebody connects (seen with 1.78). What still runs after the grace is ended. With TLS it
        # can also crash where a handshake is under way at this moment, with static and with
        # changing certificates: by then all calls have been answered, and all data are written.
        await asyncio.gather(
            *(server.stop(min(grace, _ENDING_SECONDS)) for server in self._servers)
        )
        self._holders.close()

    async def _set_health(self, status: Any, overall: Any = None) -> None:
        await self._health.set("", status if overall is None else overall)
        for service in self._services:
            await self._health.set(service.name, status)


def _health_of(serving: bool) -> Any:
    return (
        health_pb2.HealthCheckResponse.SERVING
        if serving
        else health_pb2.HealthCheckResponse.NOT_SERVING
    )
