"""The router as processes: its workers, its signals, its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from podbay.v1 import inference_router_service_pb2 as pb
from podbay.v1.inference_router_service_pb2_grpc import InferenceRouterServiceStub
from podbay_inference_router.workers import hold_port
from podbay_kit.serving import ListenError
from tests.support.eventually import eventually
from tests.support.router_fakes import (
    SERVICE_TOKEN,
    FakeReplica,
    FakeSessionManager,
    ReplicaCall,
    echo,
    route,
)
from tests.support.rpc import details_of


class RouterProcess:
    """A router that was started from its command line."""

    def __init__(self, folder: Path, manager: FakeSessionManager) -> None:
        self._folder = folder
        self._manager = manager
        self._channels: list[grpc.aio.Channel] = []
        self.process: asyncio.subprocess.Process
        self.address = ""

    async def start(self, *options: str, listen: str = "127.0.0.1:0", wait: bool = True) -> None:
        secret = self._folder / "token"
        secret.write_text(SERVICE_TOKEN)
        secret.chmod(0o600)
        address_file = self._folder / "address.json"
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "podbay_inference_router",
            *("--listen", listen),
            *("--data-dir", str(self._folder)),
            *("--service-token-file", str(secret)),
            *("--session-manager-endpoint", self._manager.address),
            *("--address-file", str(address_file)),
            *options,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        if wait:
            await eventually(
                lambda: address_file.exists() or self.process.returncode is not None,
                "the router tells its address",
            )
            if not address_file.exists():
                assert self.process.stderr is not None
                raise AssertionError((await self.process.stderr.read()).decode())
            self.address = json.loads(address_file.read_text())["address"]

    @property
    def workers(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children()
        return []

    def stub(self) -> Any:
        """Return a stub with a connection of its own."""
        channel = grpc.aio.insecure_channel(
            self.address, options=[("test.number", len(self._channels))]
        )
        self._channels.append(channel)
        return InferenceRouterServiceStub(channel)

    async def infer(self, stub: Any, session: str = "s") -> pb.InferResponse:
        response: pb.InferResponse = await stub.Infer(
            pb.InferRequest(session_id=session, endpoint="x", json=b"{}"),
            metadata=[("authorization", f"Bearer {self._manager.token(session)}")],
            timeout=20,
            wait_for_ready=True,
        )
        return response

    async def served(self) -> None:
        """Wait until a call is answered."""

        async def answered() -> bool:
            try:
                await self.infer(self.stub())
            except grpc.aio.AioRpcError as error:
                assert details_of(error)[0].reason == "ROUTER_NOT_SYNCED", error
                return False
            return True

        await eventually(answered, "a call is answered")

    async def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        async with asyncio.timeout(30):
            return await self.process.wait()

    async def stop(self) -> None:
        for channel in self._channels:
            await channel.close()
        family = self.workers
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        for worker in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        _, errors = await self.process.communicate()
        print(errors.decode())  # shown where the test failed


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


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


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


def test_the_port_is_held_for_the_workers_and_for_nobody_else() -> None:
    holder, listen = hold_port("127.0.0.1:0")
    port = int(listen.rpartition(":")[2])
    with holder, socket.socket() as worker:
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(("127.0.0.1", port))
        worker.listen()
        with pytest.raises(ListenError, match="taken"):
            hold_port(listen)
    again, _ = hold_port(listen)
    again.close()
    with pytest.raises(ListenError):
        hold_port("192.0.2.1:0")
