"""A router that may open no more files says so, blames no replica, and is well again by itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from podbay.v1 import errors_pb2
from podbay.v1 import inference_router_service_pb2 as pb
from tests.support.eventually import eventually
from tests.support.router_fakes import FakeReplica, FakeSessionManager, ReplicaCall, echo, route
from tests.support.router_process import RouterProcess
from tests.support.router_rig import ExchangeClient, call

_FILES = 96
_CALLS = 200
_R = errors_pb2


def exchange(
    router: RouterProcess, manager: FakeSessionManager, session: str = "s"
) -> ExchangeClient:
    """Open a stream of calls."""
    metadata = [("authorization", f"Bearer {manager.token(session)}")]
    return ExchangeClient(router.stub().Exchange(metadata=metadata))


async def test_a_router_without_files_says_so_and_blames_nobody(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def held(request: ReplicaCall) -> None:
        await go.wait()
        await request.reply(b'"done"')

    manager = FakeSessionManager()
    await manager.start()
    replicas = [await FakeReplica(held).start() for _ in range(2)]
    manager.set_route(route("s", [replica.port for replica in replicas]))
    another = await FakeReplica(echo).start()
    manager.set_route(route("t", [another.port]))
    router = RouterProcess(tmp_path, manager)
    try:
        await router.start("--workers", "1", files=_FILES)
        client = exchange(router, manager)
        await client.send(*[call(number) for number in range(_CALLS)])

        def running() -> int:
            return sum(len(replica.calls) for replica in replicas)

        refused = [await client.next()]
        # Those that got a connection go on; nobody takes another's.
        held_calls = running()
        assert 10 < held_calls < _FILES
        refused += [await client.next() for _ in range(_CALLS - held_calls - 1)]
        assert Counter(result.error.reason for result in refused) == {
            _R.ERROR_REASON_ROUTER_OUT_OF_FILES: len(refused)
        }
        error = refused[0].error
        assert error.not_started
        assert error.HasField("retry_delay")
        assert error.metadata["limit"] == str(_FILES)
        assert "ulimit -n" in error.message
        # A call that comes now waits, and goes on over the connection of one that ends.
        await client.send(call(_CALLS))
        assert running() == held_calls
        go.set()
        ends = await client.results(held_calls + 1)
        assert not any(result.HasField("error") for result in ends.values())
        assert _CALLS in ends
        await client.finish()

        # The same process is well: both replicas take calls, and other sessions too, whose
        # connections the idle ones make room for.
        other = exchange(router, manager, "t")
        await other.send(*[call(number) for number in range(20)])
        assert not any(result.HasField("error") for result in (await other.results(20)).values())
        await other.finish()
        before = [len(replica.calls) for replica in replicas]

        async def both_take_calls() -> bool:
            again = exchange(router, manager)
            await again.send(*[call(number) for number in range(10)])
            results: dict[int, pb.CallResult] = await again.results(10)
            await again.finish()
            assert not any(result.HasField("error") for result in results.values())
            now = [len(replica.calls) for replica in replicas]
            return all(after > then for after, then in zip(now, before, strict=True))

        await eventually(both_take_calls, "both replicas take calls")
        assert manager.reports == []
    finally:
        await router.stop()
        for replica in (*replicas, another):
            await replica.stop()
        await manager.stop()
