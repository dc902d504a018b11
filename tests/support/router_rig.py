"""A router worker between a fake session manager and scripted replicas, in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from podbay.v1 import inference_router_service_pb2 as pb
from podbay.v1.inference_router_service_pb2_grpc import InferenceRouterServiceStub
from podbay_inference_router.settings import Settings
from podbay_inference_router.worker import Worker
from tests.support.eventually import eventually
from tests.support.router_fakes import (
    SERVICE_TOKEN,
    FakeReplica,
    FakeSessionManager,
    Handler,
    echo,
    route,
)


class Rig:
    """The parts, and short ways to use them."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings(settle_seconds=0.05, queue_timeout=10)
        self.manager = FakeSessionManager()
        self.replicas: list[FakeReplica] = []
        self.worker: Worker
        self.stub: Any
        self.channel: grpc.aio.Channel
        self.port = 0
        self._stopped = False

    async def start(self, *, synced: bool = True) -> None:
        if synced:
            await self.manager.start()
        address = self.manager.address if synced else "127.0.0.1:1"
        self.worker = Worker(
            listen="127.0.0.1:0",
            session_manager=address,
            service_token=SERVICE_TOKEN,
            settings=self.settings,
        )
        self.port = await self.worker.start(sync_seconds=20 if synced else 0)
        self.channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{self.port}", options=[("grpc.max_receive_message_length", -1)]
        )
        self.stub = InferenceRouterServiceStub(self.channel)

    async def stop_worker(self, grace: float = 5.0) -> None:
        if not self._stopped:
            self._stopped = True
            await self.worker.stop(grace)

    async def stop(self) -> None:
        await self.channel.close()
        await self.stop_worker(0)
        await self.manager.stop()
        for replica in self.replicas:
            await replica.stop()

    async def replica(self, handler: Handler = echo) -> FakeReplica:
        replica = await FakeReplica(handler).start()
        self.replicas.append(replica)
        return replica

    async def session(self, name: str, *handlers: Handler, **fields: Any) -> list[FakeReplica]:
        """Make a session with one replica for each handler, and wait until it is routed."""
        replicas = [await self.replica(handler) for handler in handlers]
        await self.routes(name, [replica.port for replica in replicas], **fields)
        return replicas

    async def routes(self, name: str, ports: list[int], **fields: Any) -> None:
        """Tell a route, and wait until it has arrived."""
        self.manager.set_route(route(name, ports, **fields))
        revision = self.manager.revision
        await eventually(
            lambda: self.worker.dispatcher.table.revision == revision, "the route has arrived"
        )

    def metadata(self, name: str, **claims: Any) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self.manager.token(name, **claims)}")]

    async def infer(self, name: str, body: bytes = b"{}", **options: Any) -> pb.InferResponse:
        timeout = options.pop("timeout", 20)
        metadata = options.pop("metadata", None) or self.metadata(name)
        request = pb.InferRequest(session_id=name, endpoint="x", json=body)
        for field, value in options.items():
            if field in ("value", "file_upload"):
                getattr(request, field).CopyFrom(value)
            else:
                setattr(request, field, value)
        response: pb.InferResponse = await self.stub.Infer(
            request, metadata=metadata, timeout=timeout
        )
        return response

    def exchange(self, name: str, **claims: Any) -> ExchangeClient:
        return ExchangeClient(self.stub.Exchange(metadata=self.metadata(name, **claims)))

    async def idle(self) -> None:
        """Wait until nothing runs, and check that every counter says so."""
        await eventually(lambda: self.worker.dispatcher.active == 0, "no call is active")
        for name in ("s", "t"):
            session = self.worker.dispatcher.table.find(name)
            if session is not None:
                assert [endpoint.outstanding for endpoint in session.endpoints] == [0] * len(
                    session.endpoints
                )


class ExchangeClient:
    """A client's side of an Exchange stream."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.draining = False
        self._queue: list[pb.CallResult] = []

    async def send(self, *calls: pb.Call, cancels: tuple[int, ...] = ()) -> None:
        await self.stream.write(pb.ExchangeRequest(calls=calls, cancels=cancels))

    async def next(self) -> pb.CallResult:
        """Return the next result; fails where the stream ends first."""
        while not self._queue:
            async with asyncio.timeout(20):
                message = await self.stream.read()
            assert isinstance(message, pb.ExchangeResponse), message
            self.draining = self.draining or message.draining
            self._queue += message.results
        return self._queue.pop(0)

    async def results(self, count: int) -> dict[int, pb.CallResult]:
        """Return the last results of `count` calls, with all their items."""
        ends: dict[int, pb.CallResult] = {}
        parts: dict[int, list[pb.Item]] = {}
        while len(ends) < count:
            result = await self.next()
            parts.setdefault(result.id, []).extend(result.items)
            if result.done:
                assert result.id not in ends
                del result.items[:]
                result.items.extend(parts[result.id])
                ends[result.id] = result
        return ends

    async def ended(self) -> grpc.StatusCode:
        """See the stream end by itself without further results, and return its code."""
        async with asyncio.timeout(20):
            while (message := await self.stream.read()) is not grpc.aio.EOF:
                assert not message.results
            code: grpc.StatusCode = await self.stream.code()
        return code

    async def finish(self) -> None:
        """Half-close, and see the stream end without further results."""
        await self.stream.done_writing()
        async with asyncio.timeout(20):
            while (message := await self.stream.read()) is not grpc.aio.EOF:
                assert not message.results
            assert await self.stream.code() is grpc.StatusCode.OK


def call(call_id: int, body: bytes = b"{}", **fields: Any) -> pb.Call:
    """Make a call for an Exchange stream."""
    timeout = fields.pop("timeout", None)
    made = pb.Call(id=call_id, endpoint=fields.pop("endpoint", "x"), json=body, **fields)
    if timeout is not None:
        made.timeout.FromMilliseconds(int(timeout * 1000))
    return made


@contextlib.asynccontextmanager
async def running_rig(
    settings: Settings | None = None, *, synced: bool = True
) -> AsyncIterator[Rig]:
    rig = Rig(settings)
    await rig.start(synced=synced)
    try:
        yield rig
    finally:
        await rig.stop()
