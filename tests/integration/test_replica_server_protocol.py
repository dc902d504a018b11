"""HTTP/1.1 as the replica's web server speaks it, byte by byte."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from podbay_kit.replica_server import ReplicaServer
from podbay_kit.replica_server import connection as connections
from tests.support.eventually import eventually
from tests.support.replica_http import Connection, connect


class Inline:
    concurrency = "inline"

    def infer(self, endpoint: str, request: Any) -> Any:
        return {"endpoint": endpoint, "request": request}


class Later:
    """Answers in the loop, in the order in which it is let."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.gate = asyncio.Event()

    async def infer(self, endpoint: str, request: Any) -> Any:
        self.begun.append(request)
        await self.gate.wait()
        return request


class Pieces:
    concurrency = "inline"

    def infer(self, endpoint: str, request: Any) -> Any:
        return iter(range(request))


@asynccontextmanager
async def serving(mock: object, **options: Any) -> AsyncIterator[tuple[ReplicaServer, Connection]]:
    server = ReplicaServer(mock, **options)
    port = await server.start()
    try:
        async with connect(port) as connection:
            yield server, connection
    finally:
        await server.stop(5)


def post(body: object, *headers: str, path: str = "/x", version: str = "1.1") -> bytes:
    text = json.dumps(body)
    lines = [f"POST {path} HTTP/{version}", "Host: r", f"Content-Length: {len(text)}", *headers]
    return "\r\n".join([*lines, "", text]).encode()


@pytest.mark.parametrize("mock", [Inline, Pieces])
async def test_requests_in_a_row_are_answered_in_their_order(mock: type) -> None:
    async with serving(mock()) as (_, replica):
        replica.writer.write(b"".join(post(number) for number in range(1, 200)))
        for number in range(1, 200):
            answer = await replica.answer()
            assert answer.status == 200
            if mock is Inline:
                assert answer.json()["request"] == number
            else:
                assert answer.lines() == list(range(number))


async def test_the_next_request_is_not_begun_before_the_first_is_answered() -> None:
    mock = Later()
    async with serving(mock) as (_, replica):
        replica.writer.write(post(1) + post(2) + post(3))
        await eventually(lambda: mock.begun, "the first one runs")
        replica.writer.write(post(4))
        async with connect(replica.writer.get_extra_info("peername")[1]) as other:
            assert (await _ready(other)).status == 200  # the loop has turned
        assert mock.begun == [1]
        mock.gate.set()
        assert [(await replica.answer()).json() for _ in range(4)] == [1, 2, 3, 4]


async def _ready(replica: Connection) -> Any:
    await replica.send("GET", "/ready")
    return await replica.answer()


@pytest.mark.parametrize("mock", [Inline, Later])
async def test_a_request_may_come_byte_by_byte(mock: type) -> None:
    made = mock()
    if isinstance(made, Later):
        made.gate.set()
    async with serving(made) as (_, replica):
        for byte in post({"a": "ö"}, path="/a%20b?c=d"):
            replica.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        answer = (await replica.answer()).json()
        assert answer in ({"endpoint": "a b", "request": {"a": "ö"}}, {"a": "ö"})


async def test_a_client_that_waits_to_be_told_to_go_on_is_told() -> None:
    async with serving(Inline(), max_body_bytes=100) as (_, replica):
        head, _, body = post("text", "Expect: 100-continue").partition(b"\r\n\r\n")
        replica.writer.write(head + b"\r\n\r\n")
        assert await replica.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        replica.writer.write(body)
        assert (await replica.answer()).json()["request"] == "text"
        # One that announces too much is refused instead.
        head, _, _ = post("x" * 300, "Expect: 100-continue").partition(b"\r\n\r\n")
        replica.writer.write(head + b"\r\n\r\n")
        assert (await replica.answer()).status == 413


@pytest.mark.parametrize(
    "sent", [post(1, "Connection: close"), post(1, version="1.0"), post(1, "Connection: Close, x")]
)
async def test_the_connection_ends_where_the_client_wants_that(sent: bytes) -> None:
    async with serving(Inline()) as (_, replica):
        replica.writer.write(sent + post(2))
        answer = await replica.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await replica.reader.read() == b""


async def test_an_old_client_gets_pieces_without_chunks() -> None:
    async with serving(Pieces()) as (_, replica):
        replica.writer.write(post(3, version="1.0"))
        answer = await replica.head()
        assert "transfer-encoding" not in answer.headers
        assert await replica.reader.read() == b"0\n1\n2\n"


async def test_head_has_no_body() -> None:
    async with serving(Inline()) as (_, replica):
        await replica.send("HEAD", "/ready")
        assert (await replica.head()).headers["content-length"] == "14"
        replica.writer.write(post(2))
        assert (await replica.answer()).json()["request"] == 2


async def test_another_protocol_is_not_spoken_and_the_request_is_answered() -> None:
    async with serving(Inline()) as (_, replica):
        replica.writer.write(
            b"GET /ready HTTP/1.1\r\nHost: r\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
            b"\x81"
        )
        answer = await replica.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await replica.reader.read() == b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: r\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST h:1 HTTP/1.1\r\nHost: r\r\nContent-Length: 0\r\n\r\n", 400),
        (b"POST /\xff HTTP/1.1\r\nHost: r\r\nContent-Length: 0\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\n" + b"a: " + b"x" * 400_000, 431),
    ],
)
async def test_what_is_no_request_is_refused_and_the_connection_ends(
    sent: bytes, status: int
) -> None:
    async with serving(Inline()) as (server, replica):
        replica.writer.write(sent)
        assert (await replica.answer()).status == status
        await eventually(lambda: not len(server._connections), "the connection has ended")


async def test_what_came_before_something_that_is_no_request_is_answered() -> None:
    async with serving(Inline()) as (_, replica):
        replica.writer.write(post(1) + post(2) + b"nonsense\r\n\r\n")
        assert [(await replica.answer()).status for _ in range(3)] == [200, 200, 400]
        assert await replica.reader.read() == b""


async def test_what_follows_an_answer_under_way_and_is_no_request_ends_it() -> None:
    mock = Later()
    async with serving(mock) as (server, replica):
        replica.writer.write(post(1) + b"nonsense\r\n\r\n")
        assert await replica.reader.read() == b""  # no answer to another request comes in its place
        await eventually(lambda: not len(server._connections), "the work has ended")


async def test_an_idle_connection_is_closed_and_one_at_work_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE_SECONDS", 0.2)
    mock = Later()
    async with serving(mock) as (_, replica):
        async with connect(replica.writer.get_extra_info("peername")[1]) as idle:
            replica.writer.write(post(1))
            assert await idle.reader.read() == b""
        assert mock.begun == [1]
        mock.gate.set()
        assert (await replica.answer()).json() == 1
        assert await replica.reader.read() == b""


async def test_a_stop_refuses_what_is_on_its_way_in() -> None:
    async with serving(Inline()) as (server, replica):
        replica.writer.write(post("text")[:-3])
        await eventually(
            lambda: any(item._queue for item in server._connections.all()), "the head is read"
        )
        await server.stop(0)
        answer = await replica.answer()
        assert (answer.status, answer.json()["reason"]) == (503, "SERVICE_STOPPING")
        assert await replica.reader.read() == b""


async def test_a_stop_does_not_wait_for_a_client_that_does_not_read() -> None:
    class Large:
        concurrency = "inline"

        def infer(self, endpoint: str, request: Any) -> Any:
            return ["x" * 1_000_000] * 30

    async with serving(Large()) as (server, replica):
        replica.writer.write(post(1))
        await replica.head()
        await server.stop(0)
        await eventually(lambda: not len(server._connections), "the connection is closed")
