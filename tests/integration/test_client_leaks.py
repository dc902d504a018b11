"""Ten thousand failed calls against a real router leave nothing behind, on both faces."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psutil
import pytest

from podbay import AsyncClient, Client, errors
from podbay.types import InferResult
from podbay.v1 import registry_service_pb2 as registry
from tests.support.eventually import eventually
from tests.support.fake_services import FakeService
from tests.support.router_fakes import ReplicaCall
from tests.support.router_rig import Rig, running_rig

# A hundred bodies: what the replica does with each.
KINDS = ["500"] * 30 + ["404"] * 30 + ["bad json"] * 25 + ["break off"] * 15
ROUNDS = 79
LATE = 100
GHOSTS = 2_000
REASONS = {
    "500": "REPLICA_REFUSED",
    "404": "REPLICA_REFUSED",
    "bad json": "REPLICA_BAD_ANSWER",
    "break off": "REPLICA_CONNECTION_LOST",
}


async def misbehave(call: ReplicaCall) -> None:
    kind = call.body.decode().strip('"')
    if kind == "hang":
        await call.closed.wait()
    elif kind == "break off":
        call.break_off()
    elif kind == "bad json":
        await call.reply(b'{"half": ')
    elif kind in ("500", "404"):
        await call.reply(b'{"detail": "no"}', status=int(kind))
    else:
        await call.reply(b'"fine"')


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with running_rig() as rig:
        await rig.session("s", misbehave, misbehave)
        yield rig


@pytest.fixture
def registry_address(rig: Rig) -> Iterator[str]:
    fake = FakeService(registry.DESCRIPTOR.services_by_name["RegistryService"])
    fake.handlers["GetInstallation"] = lambda request, context: registry.GetInstallationResponse(
        inference_router_endpoint=f"127.0.0.1:{rig.port}"
    )
    fake.start()
    yield fake.address
    fake.stop()


class SyncFace:
    """The synchronous face in a thread: the router has the loop."""

    def __init__(self, address: str, rig: Rig) -> None:
        self.client = Client(address, "api-token", timeout=20)
        make = self.client.inferencesessions.client
        self.calls = make("s", rig.manager.token("s"), endpoint="x", timeout=20)
        self.ghosts = make("ghost", rig.manager.token("ghost"), endpoint="x", timeout=20)

    async def many(
        self, calls: Any, bodies: list[str], seconds: float = 100.0
    ) -> list[InferResult]:
        return await asyncio.to_thread(
            lambda: list(calls.infer_many(bodies, max_in_flight=64, timeout=seconds))
        )

    async def infer(self, body: str) -> Any:
        return await asyncio.to_thread(self.calls.infer, body)

    def cores(self) -> list[Any]:
        return [self.calls._exchange._core, self.ghosts._exchange._core]

    async def close(self) -> None:
        await asyncio.to_thread(self.client.close)


class AsyncFace(SyncFace):
    """The asynchronous face in the router's loop."""

    def __init__(self, address: str, rig: Rig) -> None:
        self.client: Any = AsyncClient(address, "api-token", timeout=20)
        make = self.client.inferencesessions.client
        self.calls = make("s", rig.manager.token("s"), endpoint="x", timeout=20)
        self.ghosts = make("ghost", rig.manager.token("ghost"), endpoint="x", timeout=20)

    async def many(
        self, calls: Any, bodies: list[str], seconds: float = 100.0
    ) -> list[InferResult]:
        results = calls.infer_many(bodies, max_in_flight=64, timeout=seconds)
        return [result async for result in results]

    async def infer(self, body: str) -> Any:
        return await self.calls.infer(body)

    def cores(self) -> list[Any]:
        return [self.calls._exchange.core, self.ghosts._exchange.core]

    async def close(self) -> None:
        await self.client.close()


def own_threads() -> int:
    """How many threads there are beside those of the loop's pool, which grows as it likes."""
    return sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate())


@pytest.mark.parametrize("face_type", [SyncFace, AsyncFace], ids=["sync", "async"])
async def test_failed_calls_leave_nothing(face_type: Any, rig: Rig, registry_address: str) -> None:
    face = face_type(registry_address, rig)
    process = psutil.Process()
    # The first ones open what stays open: connections of the pools, threads of the executors.
    await face.many(face.calls, KINDS * 3)
    await face.many(face.calls, ["hang"] * 64, seconds=0.2)
    await face.many(face.ghosts, ["x"] * 100)
    assert await face.infer("good") == ["fine"]
    files, threads = process.num_fds(), own_threads()
    tasks = len(asyncio.all_tasks())

    results = await face.many(face.calls, KINDS * ROUNDS)
    late = await face.many(face.calls, ["hang"] * LATE, seconds=0.2)
    ghosts = await face.many(face.ghosts, ["x"] * GHOSTS)

    assert len(results) + len(late) + len(ghosts) == 10_000
    expected = Counter(REASONS[kind] for kind in KINDS)
    found = Counter(reason(result) for result in results)
    assert found == Counter({name: count * ROUNDS for name, count in expected.items()})
    assert {reason(result) for result in late} == {"DEADLINE_EXCEEDED"}
    assert {reason(result) for result in ghosts} == {"INFERENCE_SESSION_NOT_FOUND"}
    assert await face.infer("good") == ["fine"]
    for core in face.cores():
        assert not core._queued
        assert core.current is None or not core.current.sent
    await rig.idle()
    await eventually(lambda: process.num_fds() <= files, "no file is left open")
    await eventually(lambda: own_threads() <= threads, "no thread is left")
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks, "no task is left")
    await face.close()


def reason(result: InferResult) -> str:
    assert isinstance(result.error, errors.PodbayError), result
    return result.error.reason
