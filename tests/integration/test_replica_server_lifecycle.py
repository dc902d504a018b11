import asyncio
import signal
import socket
import threading
from typing import Any

import pytest

from podbay_kit.replica_server import (
    BindFailedError,
    MockFailedError,
    MockNotImportableError,
    PortTakenError,
    ReplicaServer,
)
from tests.support.eventually import eventually
from tests.support.replica_http import connect

MODULE = "tests.support.replica_mocks"


class Gated:
    def __init__(self) -> None:
        self.running = asyncio.Event()
        self.gate = asyncio.Event()

    async def infer(self, endpoint: str, request: Any) -> Any:
        self.running.set()
        await self.gate.wait()
        return {"done": True}


class Stubborn:
    def __init__(self) -> None:
        self.running = threading.Event()
        self.gate = threading.Event()

    def infer(self, endpoint: str, request: Any) -> Any:
        self.running.set()
        assert self.gate.wait(60)
        return None


@pytest.mark.parametrize("mock", [f"{MODULE}.Sample", f"{MODULE}:Sample"])
async def test_a_path_is_served(mock: str) -> None:
    server = ReplicaServer(mock)
    port = await server.start()
    async with connect(port) as replica:
        assert (await replica.post("/a", 1)).json() == {"endpoint": "a", "request": 1}
    await server.stop(5)


async def test_a_slow_constructor_does_not_hold_the_loop() -> None:
    built = threading.Event()

    class Slow:
        def __init__(self) -> None:
            # Only a loop that goes on can set it.
            assert built.wait(30)

        def infer(self, endpoint: str, request: Any) -> Any:
            return "there"

    server = ReplicaServer(Slow)
    starting = asyncio.create_task(server.start())
    await eventually(lambda: server.busy, "a thread is busy")
    built.set()
    async with connect(await starting) as replica:
        assert (await replica.post("/a", 1)).json() == "there"
    await server.stop(5)


async def test_connections_are_refused_until_it_is_ready() -> None:
    built = threading.Event()

    class Slow:
        def __init__(self) -> None:
            assert built.wait(30)

        def infer(self, endpoint: str, request: Any) -> Any:
            return None

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    server = ReplicaServer(Slow, port=port)
    starting = asyncio.create_task(server.start())
    await eventually(lambda: server.busy, "a thread is busy")
    with pytest.raises(ConnectionRefusedError):
        async with connect(port):
            pass
    built.set()
    assert await starting == port
    await server.stop(5)


async def test_a_cancelled_start_frees_the_port() -> None:
    release = threading.Event()

    class Slow:
        def __init__(self) -> None:
            assert release.wait(30)

        def infer(self, endpoint: str, request: Any) -> Any:
            return None

    server = ReplicaServer(Slow)
    starting = asyncio.create_task(server.start())
    await eventually(lambda: server.busy, "a thread is busy")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert server._listener is not None
    assert server._listener.fileno() == -1
    release.set()


async def test_a_taken_port_is_its_own_error() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port: int = other.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"port {port} of 127.0.0.1 is taken"):
            await ReplicaServer(Gated(), port=port).start()


async def test_a_port_that_is_taken_while_the_mock_is_built_is_the_same_error() -> None:
    other = socket.socket()
    built = threading.Event()

    class Slow:
        def __init__(self) -> None:
            assert built.wait(30)

        def infer(self, endpoint: str, request: Any) -> Any:
            return None

    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    other.bind(("127.0.0.1", 0))
    port: int = other.getsockname()[1]
    with other:
        server = ReplicaServer(Slow, port=port)
        starting = asyncio.create_task(server.start())
        await eventually(lambda: server.busy, "a thread is busy")
        other.listen()
        built.set()
        with pytest.raises(PortTakenError):
            await starting


async def test_another_address_is_its_own_error() -> None:
    with pytest.raises(BindFailedError, match=r"cannot listen on port 0 of 192\.0\.2\.1"):
        await ReplicaServer(Gated(), host="192.0.2.1").start()


async def test_errors_of_loading_come_through() -> None:
    with pytest.raises(MockNotImportableError):
        await ReplicaServer(f"{MODULE}.Nobody").start()
    with pytest.raises(MockFailedError):
        await ReplicaServer(f"{MODULE}.BadConstructor").start()


async def test_an_unknown_concurrency_is_refused() -> None:
    class Fast:
        concurrency = "processes"

        def infer(self, endpoint: str, request: Any) -> Any:
            return None

    with pytest.raises(MockFailedError, match="it can be 'threads' or 'inline'"):
        await ReplicaServer(Fast).start()
    with pytest.raises(MockFailedError, match="an object of type int has no method infer"):
        await ReplicaServer(3).start()


async def test_a_stop_lets_a_call_finish_and_takes_no_more() -> None:
    mock = Gated()
    server = ReplicaServer(mock)
    port = await server.start()
    async with connect(port) as replica, connect(port) as idle:
        await replica.send("POST", "/x", b"{}")
        await asyncio.wait_for(mock.running.wait(), 20)
        stopping = asyncio.create_task(server.stop(60))
        assert await idle.reader.read() == b""  # an idle connection is closed at once
        with pytest.raises(ConnectionRefusedError):
            async with connect(port):
                pass
        assert not stopping.done()
        mock.gate.set()
        answer = await replica.answer()
        assert answer.json() == {"done": True}
        assert answer.headers["connection"] == "close"
        await stopping


async def test_a_stop_cancels_what_outlives_the_grace() -> None:
    mock = Gated()
    server = ReplicaServer(mock)
    port = await server.start()
    async with connect(port) as replica:
        await replica.send("POST", "/x", b"{}")
        await asyncio.wait_for(mock.running.wait(), 20)
        await server.stop(0)
        answer = await replica.answer()
        assert answer.status == 503
        assert answer.json()["reason"] == "SERVICE_STOPPING"
    assert not len(server._connections)


async def test_a_stop_does_not_wait_for_a_thread_that_hangs() -> None:
    mock = Stubborn()
    server = ReplicaServer(mock)
    port = await server.start()
    async with connect(port) as replica:
        await replica.send("POST", "/x", b"{}")
        assert await asyncio.to_thread(mock.running.wait, 20)
        await server.stop(0)
        assert (await replica.answer()).status == 503
    assert server.busy
    mock.gate.set()
    await eventually(lambda: not server.busy, "the thread is idle")


async def test_a_stop_twice_or_before_the_start_does_nothing() -> None:
    server = ReplicaServer(Gated())
    await server.stop(1)
    with pytest.raises(RuntimeError):
        await server.start()
    server = ReplicaServer(Gated())
    await server.start()
    await server.stop(1)
    await server.stop(1)
    with pytest.raises(RuntimeError):
        await server.start()


async def test_several_servers_share_a_loop_and_leave_its_signals_alone() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    servers = [ReplicaServer(f"{MODULE}.Sample") for _ in range(5)]
    ports = [await server.start() for server in servers]
    assert len(set(ports)) == 5
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    await servers[0].stop(1)
    for port in ports[1:]:
        async with connect(port) as replica:
            assert (await replica.post("/a", 1)).status == 200
    for server in servers[1:]:
        await server.stop(1)


async def test_no_task_is_left() -> None:
    before = asyncio.all_tasks()
    server = ReplicaServer(f"{MODULE}.Sample")
    async with connect(await server.start()) as replica:
        await replica.post("/a", 1)
    await server.stop(1)
    assert asyncio.all_tasks() == before
