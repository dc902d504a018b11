"""What stands around a router in its tests: a session manager, its keys, and scripted replicas."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from podbay.v1.session_manager_service_pb2 import (
    ROUTE_STATE_OPEN,
    AccountLimit,
    AcknowledgeRoutesRequest,
    AcknowledgeRoutesResponse,
    ReportReplicaRequest,
    ReportReplicaResponse,
    ReportUsageRequest,
    ReportUsageResponse,
    Route,
    RouteEndpoint,
    VerificationKey,
    WatchRoutesRequest,
    WatchRoutesResponse,
)

AUDIENCE = "podbay-inference-router"
SERVICE_TOKEN = "s" * 40


class SigningKey:
    """A key that signs session tokens."""

    def __init__(self, kid: str = "key-1") -> None:
        self.kid = kid
        self._private = Ed25519PrivateKey.generate()

    @property
    def public(self) -> bytes:
        return self._private.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )

    @property
    def message(self) -> VerificationKey:
        return VerificationKey(kid=self.kid, ed25519_public_key=self.public)

    def token(self, session_id: str, **changes: Any) -> str:
        """Make a token; a claim that is given as None is left out."""
        now = int(time.time())
        claims = {
            "iss": "test",
            "aud": AUDIENCE,
            "sub": "acct",
            "sid": session_id,
            "epoch": 1,
            "iat": now,
            "exp": now + 3600,
            "jti": uuid.uuid4().hex,
            **changes,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, self._private, algorithm="EdDSA", headers={"kid": self.kid})


def route(session_id: str, ports: Iterable[int] = (), **fields: Any) -> Route:
    """Make an open route whose replicas listen on `ports` of this machine."""
    endpoints = [
        RouteEndpoint(replica_id=f"{session_id}-r{index}", host="127.0.0.1", port=port)
        for index, port in enumerate(ports)
    ]
    values = {"account": "acct", "epoch": 1, "state": ROUTE_STATE_OPEN, **fields}
    return Route(session_id=session_id, endpoints=endpoints, **values)


class FakeSessionManager:
    """Tells routes and takes acknowledgements, and nothing else."""

    def __init__(self, *keys: SigningKey) -> None:
        self.keys = keys or (SigningKey(),)
        self._routes: dict[str, Route] = {}
        self._quotas: dict[str, int] = {}
        self._revision = 0
        self._watchers: set[asyncio.Queue[WatchRoutesResponse | None]] = set()
        self._server: grpc.aio.Server | None = None
        self.port = 0
        self.watches = 0
        self.acknowledged: dict[str, int] = {}
        self.acknowledgements = 0
        self.tokens: list[str] = []
        self.reports: list[ReportReplicaRequest] = []
        self.usages: list[ReportUsageRequest] = []
        self.refuses_usage = grpc.StatusCode.OK
        """With what it ends reports of usage, after it has taken them."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def revision(self) -> int:
        return self._revision

    def token(self, session_id: str, **changes: Any) -> str:
        return self.keys[0].token(session_id, **changes)

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handlers: dict[str, Any] = {
            "WatchRoutes": grpc.unary_stream_rpc_method_handler(
                self.watch_routes,
                WatchRoutesRequest.FromString,
                WatchRoutesResponse.SerializeToString,
            ),
            "AcknowledgeRoutes": grpc.unary_unary_rpc_method_handler(
                self.acknowledge_routes,
                AcknowledgeRoutesRequest.FromString,
                AcknowledgeRoutesResponse.SerializeToString,
            ),
            "ReportReplica": grpc.unary_unary_rpc_method_handler(
                self.report_replica,
                ReportReplicaRequest.FromString,
                ReportReplicaResponse.SerializeToString,
            ),
            "ReportUsage": grpc.unary_unary_rpc_method_handler(
                self.report_usage,
                ReportUsageRequest.FromString,
                ReportUsageResponse.SerializeToString,
            ),
        }
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("podbay.v1.SessionManagerService", handlers)]
        )
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            for queue in self._watchers:
                queue.put_nowait(None)
            await self._server.stop(None)
            self._server = None

    def set_route(self, changed: Route) -> None:
        self._routes[changed.session_id] = changed
        self._send(WatchRoutesResponse(routes=[changed]))

    def set_quota(self, account: str, calls: int) -> None:
        self._quotas[account] = calls
        self._send(WatchRoutesResponse(account_limits=self._account_limits))

    @property
    def _account_limits(self) -> list[AccountLimit]:
        return [
            AccountLimit(account=account, requests_in_flight=calls)
            for account, calls in self._quotas.items()
        ]

    def set_route_later(self, session_id: str, ports: Iterable[int]) -> None:
        """Change a route while nobody can be told."""
        assert not self._watchers
        self._revision += 1
        self._routes[session_id] = route(session_id, ports)

    def route_of(self, session_id: str) -> Route:
        """Return a copy of a route."""
        copied = Route()
        copied.CopyFrom(self._routes[session_id])
        return copied

    def remove(self, session_id: str) -> None:
        del self._routes[session_id]
        self._send(WatchRoutesResponse(removed_sessions=[session_id]))

    def sign_of_life(self) -> None:
        """Send a message that brings nothing new."""
        for queue in self._watchers:
            queue.put_nowait(WatchRoutesResponse(revision=self._revision))

    def _send(self, message: WatchRoutesResponse) -> None:
        self._revision += 1
        message.revision = self._revision
        for queue in self._watchers:
            queue.put_nowait(message)

    async def acknowledge_routes(
        self, request: AcknowledgeRoutesRequest, context: Any
    ) -> AcknowledgeRoutesResponse:
        self.acknowledged[request.watch_id] = request.revision
        self.acknowledgements += 1
        return AcknowledgeRoutesResponse()

    async def report_replica(
        self, request: ReportReplicaRequest, context: Any
    ) -> ReportReplicaResponse:
        self.reports.append(request)
        return ReportReplicaResponse()

    async def report_usage(self, request: ReportUsageRequest, context: Any) -> ReportUsageResponse:
        self.usages.append(request)
        if self.refuses_usage is not grpc.StatusCode.OK:
            await context.abort(self.refuses_usage, "not now")
        return ReportUsageResponse()

    async def watch_routes(self, request: WatchRoutesRequest, context: Any) -> None:
        self.watches += 1
        self.tokens += [
            value for key, value in context.invocation_metadata() if key == "authorization"
        ]
        queue: asyncio.Queue[WatchRoutesResponse | None] = asyncio.Queue()
        queue.put_nowait(
            WatchRoutesResponse(
                revision=self._revision,
                snapshot=True,
                routes=list(self._routes.values()),
                account_limits=self._account_limits,
                keys=[key.message for key in self.keys],
                watch_id=f"watch-{self.watches}",
            )
        )
        self._watchers.add(queue)
        try:
            while (message := await queue.get()) is not None:
                await context.write(message)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")
        finally:
            self._watchers.discard(queue)


class ReplicaCall:
    """A request that a fake replica got, and the means to answer it."""

    def __init__(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        connection: int,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body
        self.connection = connection
        self.writer = writer
        self.closed = asyncio.Event()
        """Set when the client has closed the connection while the handler ran."""

    async def send(self, data: bytes) -> None:
        """Write raw bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def reply(
        self,
        body: bytes = b"{}",
        *,
        status: int = 200,
        content_type: str | None = "application/json",
        headers: Iterable[str] = (),
    ) -> None:
        """Write a whole answer."""
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
        if content_type is not None:
            lines.append(f"Content-Type: {content_type}")
        await self.send("\r\n".join([*lines, "", ""]).encode() + body)

    async def begin_chunks(self, content_type: str = "text/event-stream") -> None:
        """Write the head of a chunked answer."""
        await self.send(
            f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )

    async def chunk(self, data: bytes) -> None:
        """Write a chunk."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end_chunks(self) -> None:
        """End a chunked answer."""
        await self.send(b"0\r\n\r\n")

    def break_off(self) -> None:
        """Close the connection at once."""
        self.writer.transport.abort()


Handler = Callable[[ReplicaCall], Awaitable[None]]


async def echo(call: ReplicaCall) -> None:
    """Answer with the request's body."""
    await call.reply(call.body)


class CountedCalls:
    """A replica's handler that works for a while on each call.

    Args:
        seconds: For how long.

    Attributes:
        at_once: How many calls it works on now.
        most: How many that ever were since a test set it to 0.
    """

    def __init__(self, seconds: float) -> None:
        self.at_once = self.most = 0
        self._seconds = seconds

    async def __call__(self, call: ReplicaCall) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await asyncio.sleep(self._seconds)
        finally:
            self.at_once -= 1
        await call.reply()


class FakeReplica:
    """A raw HTTP/1.1 server whose every answer is scripted."""

    def __init__(self, handler: Handler = echo) -> None:
        self.handler = handler
        self.calls: list[ReplicaCall] = []
        self.connections = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> FakeReplica:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def open_connections(self) -> int:
        return len(self._open)

    async def stop(self) -> None:
        """Die: refuse connections, and break those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        self.connections += 1
        number = self.connections
        try:
            await self._serve_requests(reader, writer, number)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the connection ended, or the replica was stopped: both are part of the script
        finally:
            self._open.discard(writer)
            self._tasks.discard(task)
            with contextlib.suppress(OSError):
                writer.close()

    async def _serve_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        head = b""
        while True:
            head += await reader.readuntil(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            method, path, _ = lines[0].split(" ", 2)
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in lines[1:] if line)
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            call = ReplicaCall(method, path, headers, body, number, writer)
            self.calls.append(call)
            work = asyncio.ensure_future(self.handler(call))
            watch = asyncio.ensure_future(reader.read(1))
            try:
                await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
                if watch.done() and watch.exception() is None and watch.result() == b"":
                    call.closed.set()
                if watch.done() and watch.exception() is not None:
                    call.closed.set()
                with contextlib.suppress(OSError):
                    await work
                head = await watch
                if not head:
                    return
            finally:
                work.cancel()
                watch.cancel()
                await asyncio.gather(work, watch, return_exceptions=True)


def event(value: object, name: str = "") -> bytes:
    """Write a server-sent event."""
    text = f"data: {json.dumps(value)}\n\n"
    return (f"event: {name}\n{text}" if name else text).encode()
