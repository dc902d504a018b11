"""The native client, sync and async, against a real router process with scripted replicas."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from podbay import AsyncClient, Client
from podbay.errors import PodbayError
from tests.support.eventually import eventually
from tests.support.router_fakes import FakeReplica, FakeSessionManager, ReplicaCall, echo, route
from tests.support.router_process import RouterProcess, gone, registry_of

# 100,000 where somebody has the time.
MANY = int(os.environ.get("PODBAY_MANY_INPUTS", "5000"))


class Rig:
    """A router, its replica, and the address of its registry."""

    def __init__(self, router: RouterProcess, manager: FakeSessionManager) -> None:
        self.router = router
        self.manager = manager
        self.replicas: list[FakeReplica] = []
        self.registry = registry_of(router, manager)

    async def replica(self, handler: Callable[[ReplicaCall], Any] = echo) -> FakeReplica:
        made = await FakeReplica(handler).start()
        self.replicas.append(made)
        self.manager.set_route(route("s", [replica.port for replica in self.replicas]))
        return made

    async def start(self, *options: str) -> None:
        await self.router.start(*options)
        self.registry.start()

    async def stop(self) -> None:
        self.registry.stop()
        await self.router.stop()
        for replica in self.replicas:
            await replica.stop()
        await self.manager.stop()

    async def in_async(self, work: Callable[[Any], Any]) -> Any:
        """Run a coroutine function with a session client of the asynchronous face."""
        async with AsyncClient(self.registry.address, "api-token") as client:
            token = self.manager.token("s")
            async with client.inferencesessions.client("s", token, endpoint="x") as calls:
                return await work(calls)

    async def in_sync(self, work: Callable[[Any], Any]) -> Any:
        """Run a function with a session client of the synchronous face, in a thread."""

        def run() -> Any:
            with Client(self.registry.address, "api-token") as client:
                token = self.manager.token("s")
                with client.inferencesessions.client("s", token, endpoint="x") as calls:
                    return work(calls)

        return await asyncio.to_thread(run)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    manager = FakeSessionManager()
    await manager.start()
    made = Rig(RouterProcess(tmp_path, manager), manager)
    yield made
    await made.stop()


@pytest.mark.parametrize("face", ["sync", "async"])
async def test_workers_are_renewed_under_traffic_and_no_call_fails(rig: Rig, face: str) -> None:
    await rig.replica()
    await rig.start("--workers", "2", "--drain-seconds", "5")
    done, failed = [0], list[PodbayError]()
    over = asyncio.Event()

    def in_sync(calls: Any) -> None:
        while not over.is_set():
            for result in calls.infer_many(range(20), max_in_flight=8):
                if result.error is not None:
                    failed.append(result.error)
                done[0] += 1

    async def in_async(calls: Any) -> None:
        async def one_after_another() -> None:
            while not over.is_set():
                try:
                    await calls.infer(done[0])
                except PodbayError as error:
                    failed.append(error)
                done[0] += 1

        await asyncio.gather(*(one_after_another() for _ in range(8)))

    traffic = asyncio.ensure_future(
        rig.in_sync(in_sync) if face == "sync" else rig.in_async(in_async)
    )
    await eventually(lambda: done[0] > 50, "calls are answered")
    for _ in range(2):
        before = {worker.pid for worker in rig.router.workers}
        rig.router.process.send_signal(signal.SIGHUP)

        def renewed(old: set[int] = before) -> bool:
            now = {worker.pid for worker in rig.router.workers}
            return len(now) == 2 and not now & old and all(gone(pid) for pid in old)

        await eventually(renewed, "both workers were renewed", timeout=60)
        mark = done[0]
        await eventually(lambda mark=mark: done[0] > mark + 50, "calls go on")  # type: ignore[misc]
    over.set()
    await traffic
    assert [(str(error), dict(error.metadata)) for error in failed] == []


@pytest.mark.parametrize("face", ["sync", "async"])
async def test_a_slow_reader_of_one_stream_bounds_what_is_sent_and_holds_up_no_other(
    rig: Rig, face: str
) -> None:
    """The replica sends at full speed; the caller takes one piece now and then."""
    sent = [0]

    async def flood(request: ReplicaCall) -> None:
        if request.body != b'"flood"':
            await request.reply(request.body)
            return
        await request.begin_chunks("application/x-ndjson")
        while not request.closed.is_set():
            await request.chunk(b'"' + b"x" * 10_000 + b'"\n')
            sent[0] += 10_000

    await rig.replica(flood)
    await rig.start("--workers", "1")
    process = psutil.Process(rig.router.process.pid)

    async def stands_still() -> bool:
        before = sent[0]
        await asyncio.sleep(0.2)  # a replica at full speed sends megabytes in this time
        return sent[0] == before

    def in_sync(calls: Any) -> list[int]:
        pieces, totals = calls.stream("flood"), []
        for _ in range(3):
            for _ in range(200):
                assert len(next(pieces)) == 10_000
            # Others share the stream, and are answered.
            assert calls.infer("other") == ["other"]
            waiting = eventually(stands_still, "the replica is made to wait")
            asyncio.run_coroutine_threadsafe(waiting, loop).result()
            totals.append(sent[0])
        pieces.close()
        return totals

    async def in_async(calls: Any) -> list[int]:
        pieces, totals = calls.stream("flood"), []
        for _ in range(3):
            for _ in range(200):
                assert len(await anext(pieces)) == 10_000
            assert await calls.infer("other") == ["other"]
            await eventually(stands_still, "the replica is made to wait")
            totals.append(sent[0])
        await pieces.aclose()
        return totals

    loop = asyncio.get_running_loop()
    totals = await (rig.in_sync(in_sync) if face == "sync" else rig.in_async(in_async))
    # What lies on the way is bounded, and what is taken is made up for.
    assert totals[0] < 32 << 20
    assert totals[2] - totals[0] < 16 << 20
    assert process.memory_info().rss < 400 << 20


@pytest.mark.parametrize("face", ["sync", "async"])
async def test_infer_many_holds_no_more_than_is_in_flight(rig: Rig, face: str) -> None:
    await rig.replica()
    await rig.start("--workers", "1")
    made, most, got = [0], [0], [0]

    def bodies() -> Any:
        for number in range(MANY):
            made[0] += 1
            most[0] = max(most[0], made[0] - got[0])
            yield number

    def take(result: Any) -> None:
        assert result.error is None
        assert (result.index, result.items) == (got[0], [got[0]])
        got[0] += 1

    def in_sync(calls: Any) -> None:
        for result in calls.infer_many(bodies(), max_in_flight=32):
            take(result)

    async def in_async(calls: Any) -> None:
        async for result in calls.infer_many(bodies(), max_in_flight=32):
            take(result)

    await (rig.in_sync(in_sync) if face == "sync" else rig.in_async(in_async))
    assert got[0] == MANY
    assert most[0] <= 64 + 1
