import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from podbay_kit.replica_server import ReplicaServer
from tests.support.eventually import eventually
from tests.support.replica_http import connect


class Gated:
    """Yields one piece, and the next ones as the test lets it."""

    def __init__(self) -> None:
        self.gate = asyncio.Semaphore(1)
        self.closed = asyncio.Event()
        self.pulled = 0

    async def infer(self, endpoint: str, request: Any) -> AsyncIterator[Any]:
        try:
            for number in range(request["count"]):
                await self.gate.acquire()
                self.pulled += 1
                yield {"number": number}
        finally:
            self.closed.set()


class GatedInThreads:
    """The same with a plain generator."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(1)
        self.closed = threading.Event()
        self.pulled = 0

    def infer(self, endpoint: str, request: Any) -> Iterator[Any]:
        try:
            for number in range(request["count"]):
                assert self.gate.acquire(timeout=30)
                self.pulled += 1
                yield {"number": number}
        finally:
            self.closed.set()


class Endless:
    """Never waits, so nothing but the server's own care lets others in."""

    concurrency = "inline"

    def __init__(self) -> None:
        self.closed = threading.Event()

    def infer(self, endpoint: str, request: Any) -> Iterator[Any]:
        try:
            while True:
                yield "x" * 100
        finally:
            self.closed.set()


class Failing:
    """Fails before or after its first piece."""

    async def infer(self, endpoint: str, request: Any) -> AsyncIterator[Any]:
        if endpoint == "before":
            raise ValueError("no such thing")
        yield {"number": 0}
        raise RuntimeError("secret 7")


class Waiting:
    """A coroutine that never ends."""

    def __init__(self) -> None:
        self.running = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def infer(self, endpoint: str, request: Any) -> Any:
        self.running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class Kinds:
    """Every kind of answer in pieces."""

    concurrency = "inline"

    def infer(self, endpoint: str, request: Any) -> Any:
        match endpoint:
            case "iterator":
                return iter([1, 2, 3])
            case "map":
                return map(str, [1, 2])
            case "empty":
                return iter([])
            case "async":
                return self._numbers()
            case "awaitable":
                return self._later()
            case "iterable":
                return _Iterable()
        raise ValueError(endpoint)

    async def _numbers(self) -> AsyncIterator[int]:
        for number in (1, 2, 3):
            yield number

    async def _later(self) -> AsyncIterator[int]:
        return self._numbers()


class _Iterable:
    def __aiter__(self) -> AsyncIterator[int]:
        return Kinds()._numbers()


async def started(mock: object) -> tuple[ReplicaServer, int]:
    server = ReplicaServer(mock)
    return server, await server.start()


@pytest.mark.parametrize("kind", [Gated, GatedInThreads])
async def test_pieces_arrive_one_by_one(kind: type[Gated | GatedInThreads]) -> None:
    mock = kind()
    server, port = await started(mock)
    async with connect(port) as replica:
        await replica.send("POST", "/generate", b'{"count": 3}')
        head = await replica.head()
        assert head.status == 200
        assert head.headers["content-type"] == "application/x-ndjson"
        # The second piece is made only after the first has arrived.
        for number in range(3):
            assert json.loads(await replica.chunk()) == {"number": number}
            assert mock.pulled == number + 1
            mock.gate.release()
        assert await replica.chunk() == b""
        # The connection is good for another request.
        await replica.send("GET", "/ready")
        assert (await replica.answer()).status == 200
    assert mock.closed.is_set()
    await server.stop(5)


async def test_events_arrive_one_by_one() -> None:
    mock = Gated()
    server, port = await started(mock)
    async with connect(port) as replica:
        await replica.send("POST", "/x", b'{"count": 2}', {"Accept": "text/event-stream"})
        head = await replica.head()
        assert head.headers["content-type"] == "text/event-stream"
        assert await replica.chunk() == b'data: {"number":0}\n\n'
        mock.gate.release()
        assert await replica.chunk() == b'data: {"number":1}\n\n'
        assert await replica.chunk() == b"data: [DONE]\n\n"
        assert await replica.chunk() == b""
    await server.stop(5)


@pytest.mark.parametrize(
    ("endpoint", "items"),
    [
        ("iterator", [1, 2, 3]),
        ("map", ["1", "2"]),
        ("empty", []),
        ("async", [1, 2, 3]),
        ("awaitable", [1, 2, 3]),
        ("iterable", [1, 2, 3]),
    ],
)
async def test_every_kind_of_iterator(endpoint: str, items: list[Any]) -> None:
    server, port = await started(Kinds())
    async with connect(port) as replica:
        answer = await replica.post(f"/{endpoint}", {})
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.lines() == items
    await server.stop(5)


async def test_a_client_that_leaves_ends_an_async_generator_that_waits() -> None:
    mock = Gated()
    server, port = await started(mock)
    async with connect(port) as replica:
        await replica.send("POST", "/x", b'{"count": 3}')
        await replica.head()
        await replica.chunk()
    await asyncio.wait_for(mock.closed.wait(), 20)
    assert mock.pulled == 1
    await server.stop(5)


async def test_a_client_that_leaves_ends_a_generator_in_a_thread() -> None:
    mock = GatedInThreads()
    server, port = await started(mock)
    async with connect(port) as replica:
        await replica.send("POST", "/x", b'{"count": 1000}')
        await replica.head()
        await replica.chunk()
        await eventually(
            lambda: server.busy, "a thread is busy"
        )  # the second step waits at the gate
    await eventually(lambda: not len(server._connections), "no request runs")
    mock.gate.release()  # the step that ran ends; there is no other
    assert await asyncio.to_thread(mock.closed.wait, 20)
    assert mock.pulled == 2
    await server.stop(5)


async def test_a_client_that_leaves_ends_a_generator_that_never_waits() -> None:
    mock = Endless()
    server, port = await started(mock)
    async with connect(port) as replica:
        await replica.send("POST", "/x", b"{}")
        await replica.head()
        async with connect(port) as other:
            await other.send("GET", "/ready")
            assert (await other.answer()).status == 200
    assert await asyncio.to_thread(mock.closed.wait, 20)
    await server.stop(5)


async def test_a_client_that_leaves_cancels_a_coroutine() -> None:
    mock = Waiting()
    server, port = await started(mock)
    async with connect(port) as replica:
        # More than fits into one read: the server must read on to see that the client left.
        await replica.send("POST", "/x", json.dumps("x" * 300_000).encode())
        await asyncio.wait_for(mock.running.wait(), 20)
        assert not mock.cancelled.is_set()
    await asyncio.wait_for(mock.cancelled.wait(), 20)
    await server.stop(5)


async def test_a_failure_before_the_first_piece_has_a_status() -> None:
    server, port = await started(Failing())
    async with connect(port) as replica:
        answer = await replica.post("/before", {})
        assert (answer.status, answer.json()) == (422, {"detail": "ValueError: no such thing"})
    await server.stop(5)


async def test_a_failure_after_the_first_piece_leaves_the_answer_without_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, port = await started(Failing())
    async with connect(port) as replica:
        await replica.send("POST", "/after", b"{}")
        assert (await replica.head()).status == 200
        assert json.loads(await replica.chunk()) == {"number": 0}
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await replica.chunk()
        assert caught.value.partial == b""
    assert "secret 7" in caplog.text
    async with connect(port) as replica:
        await replica.send("GET", "/ready")
        assert (await replica.answer()).status == 200
    await server.stop(5)


class Keeper:
    """Keeps its generators, so that only a call of their close ends them."""

    def __init__(self, concurrency: str) -> None:
        self.concurrency = concurrency
        self.closed = threading.Event()
        self.kept: list[object] = []

    def infer(self, endpoint: str, request: Any) -> Any:
        generator = self._async() if endpoint == "async" else self._plain()
        self.kept.append(generator)
        return generator

    def _plain(self) -> Iterator[Any]:
        try:
            yield 1
            yield {"not JSON"}
        finally:
            self.closed.set()

    async def _async(self) -> AsyncIterator[Any]:
        try:
            yield 1
            yield {"not JSON"}
        finally:
            self.closed.set()


@pytest.mark.parametrize("concurrency", ["inline", "threads"])
@pytest.mark.parametrize("endpoint", ["plain", "async"])
async def test_a_generator_is_closed_though_others_hold_it(concurrency: str, endpoint: str) -> None:
    mock = Keeper(concurrency)
    server, port = await started(mock)
    async with connect(port) as replica:
        await replica.send("POST", f"/{endpoint}", b"{}")
        await replica.head()
        assert json.loads(await replica.chunk()) == 1
        with pytest.raises(asyncio.IncompleteReadError):
            await replica.chunk()
    assert await asyncio.to_thread(mock.closed.wait, 20)
    await server.stop(5)
