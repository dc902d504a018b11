"""The router as processes: its workers, its signals, its end."""

from __future__ import annotations

import asyncio
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.struct_pb2 import Value
from prometheus_client.parser import text_string_to_metric_families

from podbay.v1 import errors_pb2
from podbay.v1 import inference_router_service_pb2 as pb
from tests.support.eventually import eventually
from tests.support.router_fakes import (
    CountedCalls,
    FakeReplica,
    FakeSessionManager,
    ReplicaCall,
    echo,
    route,
)
from tests.support.router_process import RouterProcess, free_port, gone
from tests.support.rpc import details_of


@pytest.fixture
async def manager() -> AsyncIterator[FakeSessionManager]:
    made = FakeSessionManager()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def replica() -> AsyncIterator[FakeReplica]:
    made = await FakeReplica(echo).start()
    yield made
    await made.stop()


@pytest.fixture
async def router(
    tmp_path: Path, manager: FakeSessionManager, replica: FakeReplica
) -> AsyncIterator[RouterProcess]:
    manager.set_route(route("s", [replica.port]))
    made = RouterProcess(tmp_path, manager)
    yield made
    await made.stop()


async def test_workers_share_the_port_and_end_with_the_router(
    router: RouterProcess, manager: FakeSessionManager
) -> None:
    await router.start("--workers", "2")
    await eventually(lambda: manager.watches == 2, "both workers watch the routes")
    for _ in range(10):
        await router.served()
    workers = [worker.pid for worker in router.workers]
    assert len(workers) == 2
    assert await router.end() == 0
    await eventually(lambda: all(gone(pid) for pid in workers), "no worker is left")


async def test_a_worker_that_is_killed_is_replaced(
    router: RouterProcess, manager: FakeSessionManager
) -> None:
    await router.start("--workers", "2")
    await eventually(lambda: manager.watches == 2, "both workers watch the routes")
    await router.served()
    first = router.workers[0]
    first.kill()
    await eventually(lambda: manager.watches == 3, "a new worker watches the routes")
    assert len(router.workers) == 2
    for _ in range(20):
        await router.infer(router.stub())


async def test_a_replacement_does_not_listen_before_it_has_routes(
    router: RouterProcess, manager: FakeSessionManager
) -> None:
    await router.start("--workers", "2")
    await eventually(lambda: manager.watches == 2, "both workers watch the routes")
    await manager.stop()
    before = {worker.pid for worker in router.workers}
    router.workers[0].kill()
    await eventually(
        lambda: len(router.workers) == 2 and {item.pid for item in router.workers} != before,
        "a new worker runs",
    )
    for _ in range(20):
        await router.infer(router.stub())


async def test_workers_end_when_the_parent_is_killed(router: RouterProcess) -> None:
    await router.start("--workers", "2")
    workers = [worker.pid for worker in router.workers]
    router.process.kill()
    await eventually(lambda: all(gone(pid) for pid in workers), "no worker is left")


async def test_workers_serve_on_until_those_of_the_next_router_do(
    router: RouterProcess, manager: FakeSessionManager, replica: FakeReplica, tmp_path: Path
) -> None:
    """Also while the session manager is away, and with one limit for both."""
    cut = 0
    replica.handler = running = CountedCalls(0.01)
    manager.set_route(route("s", [replica.port], max_concurrency=2))
    listen = f"127.0.0.1:{free_port()}"
    options = ("--workers", "2", "--exit-with-parent")
    await router.start(*options, listen=listen)
    await eventually(lambda: manager.watches == 2, "both workers watch the routes")
    await router.served()
    former = [worker.pid for worker in router.workers]
    stubs = [router.stub() for _ in range(8)]
    calls = asyncio.Event()
    ended = asyncio.Event()

    async def keep_calling(stub: Any) -> None:
        nonlocal cut
        while not ended.is_set():
            try:
                await router.infer(stub)
            except grpc.aio.AioRpcError as error:
                # By gRPC: it arrived in the moment in which a worker ended.
                if error.code() is grpc.StatusCode.CANCELLED:
                    continue
                if "reset by peer" in (error.details() or ""):
                    cut += 1
                    continue
                # By workers that end, once others serve.
                assert details_of(error)[0].reason in {"ROUTER_DRAINING", "SERVICE_STOPPING"}
            calls.set()

    await manager.stop()
    callers = [asyncio.ensure_future(keep_calling(stub)) for stub in stubs]
    router.process.kill()
    await eventually(lambda: gone(router.process.pid), "the router has died")
    following = RouterProcess(tmp_path, manager)
    (tmp_path / "address.json").unlink()
    try:
        await following.start(*options, listen=listen, wait=False)
        await eventually(lambda: len(following.workers) == 2, "it has workers")
        for _ in range(20):
            calls.clear()
            await asyncio.wait_for(calls.wait(), 10)
        assert not any(gone(pid) for pid in former)
        assert not (tmp_path / "address.json").exists()
        await manager.start()
        await eventually((tmp_path / "address.json").exists, "the next router serves")
        await eventually(lambda: all(gone(pid) for pid in former), "the former workers have ended")
        following.address = listen
        await following.served()
    finally:
        ended.set()
        await asyncio.wait(callers, timeout=30)
        await following.stop()
    await asyncio.gather(*callers)
    # No more than one for each worker that ended, of both routers.
    assert cut <= 4
    assert running.most == 2


async def test_workers_end_where_nobody_starts_the_router_again(router: RouterProcess) -> None:
    starter = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    await router.start(
        *("--workers", "2", "--exit-with-parent"), launcher=(sys.executable, "-c", starter)
    )
    (process,) = psutil.Process(router.process.pid).children()
    workers = process.children()
    assert len(workers) == 2
    process.kill()
    router.process.kill()
    await eventually(lambda: all(gone(one.pid) for one in workers), "no worker is left", timeout=15)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_signal_lets_what_runs_finish(
    router: RouterProcess, replica: FakeReplica, workers: str
) -> None:
    gate = asyncio.Event()

    async def gated(call: ReplicaCall) -> None:
        await gate.wait()
        await call.reply(b'"late"')

    await router.start("--workers", workers)
    await router.served()
    replica.handler = gated
    seen = len(replica.calls)
    running = asyncio.ensure_future(router.infer(router.stub()))
    await eventually(lambda: len(replica.calls) > seen, "the replica has the call")
    ending = asyncio.ensure_future(router.end())

    async def refuses() -> bool:
        try:
            await asyncio.wait_for(router.infer(router.stub()), 0.5)
        except TimeoutError:
            return False
        except grpc.aio.AioRpcError as error:
            return "about to stop" in (error.details() or "")
        return False

    await eventually(refuses, "the router takes no new calls")
    assert not ending.done()
    gate.set()
    assert (await running).items[0].json == b'"late"'
    assert await ending == 0


async def test_the_router_starts_without_the_session_manager(
    router: RouterProcess, manager: FakeSessionManager
) -> None:
    await manager.stop()
    await router.start("--workers", "1")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.infer(router.stub())
    assert details_of(caught.value)[0].reason == "ROUTER_NOT_SYNCED"
    await manager.start()
    await router.served()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_port_that_is_taken_is_named(router: RouterProcess, workers: str) -> None:
    with socket.socket() as other:
        # Shared by this side: the router must not join in silence.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        await router.start("--workers", workers, listen=listen, wait=False)
        async with asyncio.timeout(30):
            _, errors = await router.process.communicate()
    assert router.process.returncode == 2
    assert f"Cannot listen on {listen}" in errors.decode()


async def test_a_worker_that_cannot_start_is_no_endless_loop(
    router: RouterProcess, tmp_path: Path
) -> None:
    await router.start("--workers", "2", wait=False)
    router.process.kill()
    await router.process.communicate()
    (tmp_path / "address.json").unlink(missing_ok=True)
    missing = str(tmp_path / "missing")
    await router.start("--workers", "2", "--service-token-file", missing, wait=False)
    async with asyncio.timeout(30):
        _, errors = await router.process.communicate()
    assert router.process.returncode == 2
    assert "missing" in errors.decode()


async def scrape(port: int) -> dict[str, float]:
    """Return the samples that Prometheus would see."""

    def get() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    text = await asyncio.to_thread(get)
    return {
        f"{sample.name}{sorted(sample.labels.items()) or ''}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_all_workers_numbers_are_shown_together(
    router: RouterProcess, manager: FakeSessionManager, replica: FakeReplica, workers: str
) -> None:
    port = free_port()
    await router.start("--workers", workers, "--metrics-listen", f"127.0.0.1:{port}")
    await eventually(lambda: manager.watches == int(workers), "all workers watch the routes")
    for _ in range(20):
        await router.infer(router.stub())

    async def refuse(call: ReplicaCall) -> None:
        await call.reply(b"no", status=500)

    async def not_a_number(call: ReplicaCall) -> None:
        await call.reply(b"NaN")

    replica.handler = refuse
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError):
            await router.infer(router.stub())

    # What is refused before it becomes a call: without a token, and with a request of no form.
    stub = router.stub()
    metadata = [("authorization", f"Bearer {manager.token('s')}")]
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Infer(pb.InferRequest(session_id="s", endpoint="x", json=b"{}"))
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Infer(pb.InferRequest(session_id="s", json=b"{}"), metadata=metadata)
    stream = stub.Exchange(metadata=metadata)
    await stream.write(pb.ExchangeRequest(calls=[pb.Call(id=1, json=b"{}")]))
    assert (await stream.read()).results[0].error.reason == errors_pb2.ERROR_REASON_INVALID_REQUEST
    await stream.done_writing()
    # An answer that no value can be: the call ended well, and failed all the same.
    replica.handler = not_a_number
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Infer(
            pb.InferRequest(session_id="s", endpoint="x", value=Value(bool_value=True)),
            metadata=metadata,
        )

    async def shown() -> bool:
        return (await scrape(port))["podbay_router_requests_total"] == 27

    await eventually(shown, "all calls are counted")
    seen = await scrape(port)
    assert seen["podbay_router_errors_total[('reason', 'REPLICA_REFUSED')]"] == 3
    assert seen["podbay_router_errors_total[('reason', 'TOKEN_MISSING')]"] == 1
    assert seen["podbay_router_errors_total[('reason', 'INVALID_REQUEST')]"] == 2
    assert seen["podbay_router_errors_total[('reason', 'REPLICA_BAD_ANSWER')]"] == 1
    assert seen["podbay_router_latency_seconds_count"] == 24
    assert seen["podbay_router_latency_seconds_bucket[('le', '+Inf')]"] == 24
    assert 0 < seen["podbay_router_latency_seconds_sum"] < 60
    assert seen["podbay_router_outstanding[('replica', 's-r0'), ('session', 's')]"] == 0
    assert seen["podbay_router_waiting[('session', 's')]"] == 0
    assert seen["podbay_router_workers"] == seen["podbay_router_synced"] == int(workers)
    if workers == "2":
        # What a worker had counted is not lost with it.
        router.workers[0].kill()
        await eventually(lambda: manager.watches == 3, "a new worker watches the routes")
        assert (await scrape(port))["podbay_router_requests_total"] == 27
    assert await router.end() == 0


async def test_metrics_without_a_free_port_are_named(router: RouterProcess) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        await router.start("--workers", "1", "--metrics-listen", listen, wait=False)
        async with asyncio.timeout(30):
            _, errors = await router.process.communicate()
    assert router.process.returncode == 2
    assert f"Cannot listen on {listen} for metrics" in errors.decode()


async def test_workers_keep_a_replicas_limit_together(
    router: RouterProcess, manager: FakeSessionManager, replica: FakeReplica
) -> None:
    replica.handler = running = CountedCalls(0.002)
    manager.set_route(route("s", [replica.port], max_concurrency=1))
    await router.start("--workers", "2")
    await eventually(lambda: manager.watches == 2, "both workers watch the routes")
    # So many connections that both workers have some.
    stubs = [router.stub() for _ in range(16)]
    for _ in range(8):
        await asyncio.gather(*(router.infer(stub) for stub in stubs))
    assert running.most == 1
    # One connection, so one worker, and all that the replica allows.
    manager.set_route(route("t", [replica.port], max_concurrency=4))
    stub, running.most = router.stub(), 0
    await eventually(lambda: len(manager.acknowledged) == 2, "both workers have acknowledged")

    async def all_four() -> bool:
        await asyncio.gather(*(router.infer(stub, "t") for _ in range(40)))
        return running.most == 4

    await eventually(all_four, "four calls run at once")
    # What a worker had is free when it is killed in the middle of its calls.
    calls = [asyncio.ensure_future(router.infer(stub, "t")) for stub in stubs]
    killed = router.workers[0]
    killed.kill()
    await asyncio.gather(*calls, return_exceptions=True)
    await eventually(lambda: gone(killed.pid), "the worker has ended")
    stub = router.stub()  # the connection before may have been to the one that was killed
    await eventually(lambda: not running.at_once, "the replica has done what nobody waits for")
    running.most = 0
    await eventually(all_four, "four calls run at once")


@pytest.mark.parametrize("limited", ["session", "quota", "account"])
async def test_workers_keep_limits_of_sessions_and_accounts_together(
    router: RouterProcess, manager: FakeSessionManager, replica: FakeReplica, limited: str
) -> None:
    limit, options = 5, ["--workers", "2"]
    replica.handler = running = CountedCalls(0.002)
    if limited == "session":
        manager.set_route(route("s", [replica.port], max_in_flight=limit))
    elif limited == "quota":
        manager.set_quota("acct", limit)
    else:
        options += ["--account-in-flight", str(limit)]
    await router.start(*options)
    await eventually(lambda: manager.watches == 2, "both workers watch the routes")
    # So many connections that both workers have some.
    stubs = [router.stub() for _ in range(16)]

    async def all_of_it(*through: Any) -> bool:
        """Call as often as that is more than may run; say whether all ran that may."""
        running.most = 0
        calls = 64 // len(through)
        await asyncio.gather(*(router.infer(stub) for stub in through for _ in range(calls)))
        assert running.most <= limit
        return running.most == limit

    for _ in range(4):
        await all_of_it(*stubs)
    # Each connection is at one worker, and has all of the limit while the others have no calls.
    for stub in stubs[:4]:
        await eventually(partial(all_of_it, stub), "all runs that may")
    # What a worker had is free when it is killed in the middle of its calls.
    calls = [asyncio.ensure_future(router.infer(stub)) for stub in stubs]
    router.workers[0].kill()
    await asyncio.gather(*calls, return_exceptions=True)
    await eventually(lambda: not running.at_once, "the replica has done what nobody waits for")
    await eventually(partial(all_of_it, stubs[0]), "all runs that may")
