"""How soon a replica's request is closed when nobody wants its answer any more.

Each case cancels calls one at a time and prints the median and the 99th percentile.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from podbay.v1 import inference_router_service_pb2 as pb
from podbay.v1.inference_router_service_pb2_grpc import InferenceRouterServiceStub
from tests.support.eventually import eventually
from tests.support.router_fakes import (
    FakeReplica,
    FakeSessionManager,
    ReplicaCall,
    event,
    route,
)
from tests.support.router_process import RouterProcess
from tests.support.router_rig import ExchangeClient, Rig, call, running_rig

CANCELS = int(os.environ.get("PODBAY_CANCELS", "200"))
WITHIN = 0.05
"""Seconds that half of all cancels may take at most."""
NOTICED = 20
"""Seconds within which each is noticed; a few lost connections only by a ping: decision 0021."""

STATES = ("waits", "runs", "streams")


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with running_rig() as made:
        yield made


class Bench:
    """A session whose calls never end by themselves, and what is seen of them at the replica."""

    def __init__(self, rig: Rig, state: str) -> None:
        self.rig = rig
        self.state = state
        self.at_replica: asyncio.Queue[int] = asyncio.Queue()
        self.closed: dict[int, asyncio.Future[float]] = {}
        self.times: list[float] = []

    async def start(self) -> None:
        waits = self.state == "waits"
        await self.rig.session("s", self._stall, **({"max_concurrency": 1} if waits else {}))
        if waits:
            # It has the only place, for as long as the test lasts.
            self.first = self.rig.exchange("s")
            await self.first.send(call(1, body=b"0"))
            assert await self.at_replica.get() == 0

    async def _stall(self, request: ReplicaCall) -> None:
        number = int(request.body)
        closed = self.closed[number] = asyncio.get_running_loop().create_future()
        if self.state == "streams":
            await request.begin_chunks()
            await request.chunk(event(1))
        self.at_replica.put_nowait(number)
        await request.closed.wait()
        closed.set_result(time.perf_counter())

    @property
    def waiting(self) -> int:
        session = self.rig.worker.dispatcher.table.find("s")
        assert session is not None
        return len(session.waiting)

    async def arrived(self, number: int) -> None:
        """Return when a call waits in the router, or is at the replica."""
        if self.state == "waits":
            await eventually(lambda: self.waiting == 1, "the call waits")
        else:
            assert await asyncio.wait_for(self.at_replica.get(), 20) == number

    async def note(self, number: int, began: float) -> None:
        """Note how long it took from `began` until nothing was left of a call."""
        if self.state == "waits":
            while self.waiting:  # noqa: ASYNC110 # an event would tell it later
                await asyncio.sleep(0)
            self.times.append(time.perf_counter() - began)
            assert set(self.closed) == {0}  # the replica never heard of it
        else:
            self.times.append(await asyncio.wait_for(self.closed.pop(number), 20) - began)

    async def end(self, what: str) -> None:
        """Check the times, and that nothing is left."""
        if self.state == "waits":
            await self.first.send(cancels=(1,))
            await self.first.results(1)
            await self.first.finish()
        await self.rig.idle()
        _judge(what, self.state, self.times)


@pytest.mark.parametrize("state", STATES)
async def test_a_cancel_on_a_shared_stream(rig: Rig, state: str) -> None:
    bench = Bench(rig, state)
    await bench.start()
    client = rig.exchange("s")
    for number in range(1, CANCELS + 1):
        await client.send(call(number, stream=state == "streams", body=b"%d" % number))
        await bench.arrived(number)
        began = time.perf_counter()
        await client.send(cancels=(number,))
        await bench.note(number, began)
        await client.results(1)
    await client.finish()
    await bench.end("a cancel on Exchange")


@pytest.mark.parametrize("state", STATES)
async def test_a_cancelled_rpc(rig: Rig, state: str) -> None:
    bench = Bench(rig, state)
    await bench.start()
    for number in range(1, CANCELS + 1):
        rpc = _rpc(rig.stub, rig.metadata("s"), state, number)
        await bench.arrived(number)
        began = time.perf_counter()
        rpc.cancel()
        await bench.note(number, began)
    await bench.end("a cancelled RPC")


@pytest.mark.parametrize("state", STATES)
async def test_a_deadline(rig: Rig, state: str) -> None:
    bench = Bench(rig, state)
    await bench.start()
    client = rig.exchange("s")
    due: dict[int, float] = {}
    arrived = 0
    while arrived < CANCELS:
        number = len(due) + 1
        made = call(number, stream=state == "streams", body=b"%d" % number, timeout=1.0)
        due[number] = time.perf_counter() + 1.0
        await client.send(made)
        if state != "waits":
            # On a machine that is very busy one may be over before it is there.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(bench.at_replica.get(), 2)
                arrived += 1
        else:
            arrived += 1
    for _ in due:
        result = await _end(client)
        if state == "waits":
            # It is gone when its caller hears of it.
            bench.times.append(time.perf_counter() - due[result.id])
        elif result.id in bench.closed:
            bench.times.append(await bench.closed[result.id] - due[result.id])
    assert min(bench.times) > -0.001
    if state == "waits":
        assert set(bench.closed) == {0}
    await client.finish()
    await bench.end("a deadline")


@pytest.mark.parametrize("state", ["runs", "streams"])
async def test_a_lost_connection(tmp_path: Path, state: str) -> None:
    """In a process of its own, as what is told is how soon the router's system tells it."""
    at_replica: asyncio.Queue[int] = asyncio.Queue()
    closed: dict[int, asyncio.Future[float]] = {}

    async def stall(request: ReplicaCall) -> None:
        number = int(request.body)
        closed[number] = asyncio.get_running_loop().create_future()
        if state == "streams":
            await request.begin_chunks()
            await request.chunk(event(1))
        at_replica.put_nowait(number)
        await request.closed.wait()
        closed[number].set_result(time.perf_counter())

    manager = FakeSessionManager()
    await manager.start()
    replica = await FakeReplica(stall).start()
    manager.set_route(route("s", [replica.port]))
    router = RouterProcess(tmp_path, manager)
    await router.start("--workers", "1")
    metadata = [("authorization", f"Bearer {manager.token('s')}")]
    times = []
    for number in range(1, CANCELS + 1):
        async with _Wire(int(router.address.rpartition(":")[2])) as wire:
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(wire.address, options=options) as channel:
                stub: Any = InferenceRouterServiceStub(channel)
                if number % 2:
                    client = ExchangeClient(stub.Exchange(metadata=metadata))
                    await client.send(call(number, stream=state == "streams", body=b"%d" % number))
                else:
                    rpc = _rpc(stub, metadata, state, number)
                assert await asyncio.wait_for(at_replica.get(), 20) == number
                began = time.perf_counter()
                wire.cut()
                times.append(await asyncio.wait_for(closed[number], NOTICED) - began)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await (client.stream.read() if number % 2 else _outcome(rpc))
    _judge("a lost connection", state, times)
    await router.stop()
    await replica.stop()
    await manager.stop()


def _judge(what: str, state: str, times: list[float]) -> None:
    """Print the times, and check them."""
    assert len(times) >= CANCELS
    median, late = statistics.median(times), sorted(times)[math.ceil(len(times) * 0.99) - 1]
    print(
        f"\n{what}, {state}: {len(times)} calls, median {median * 1e3:.2f} ms, "
        f"p99 {late * 1e3:.2f} ms, longest {max(times) * 1e3:.2f} ms"
    )
    assert median <= WITHIN


async def _end(client: ExchangeClient) -> pb.CallResult:
    """Return the next end of a call."""
    while not (result := await client.next()).done:
        pass
    return result


def _rpc(stub: Any, metadata: list[tuple[str, str]], state: str, number: int) -> Any:
    fields: dict[str, Any] = {"session_id": "s", "endpoint": "x", "json": b"%d" % number}
    if state == "streams":
        return stub.StreamInfer(pb.StreamInferRequest(**fields), metadata=metadata)
    return stub.Infer(pb.InferRequest(**fields), metadata=metadata)


async def _outcome(rpc: Any) -> None:
    if hasattr(rpc, "read"):
        while await rpc.read() is not grpc.aio.EOF:
            pass
    else:
        await rpc


class _Wire:
    """A way to the router that can be cut as by a cable: no side says good-bye to the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[Awaitable[None]] = []
        self.address = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, back]
        pump: Callable[..., Any] = self._pump
        self._tasks += [
            asyncio.ensure_future(pump(reader, back)),
            asyncio.ensure_future(pump(there, writer)),
        ]

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                sink.write(data)
            sink.close()
