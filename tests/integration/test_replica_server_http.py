import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from podbay_kit.replica_server import ReplicaServer
from tests.support.replica_http import Connection, connect


@asynccontextmanager
async def serving(mock: object, **options: Any) -> AsyncIterator[Connection]:
    server = ReplicaServer(mock, **options)
    port = await server.start()
    try:
        async with connect(port) as connection:
            yield connection
    finally:
        await server.stop(5)


class Inline:
    """Answers with what the request asks for."""

    concurrency = "inline"

    def infer(self, endpoint: str, request: Any) -> Any:
        return do(endpoint, request)


class Threaded:
    def infer(self, endpoint: str, request: Any) -> Any:
        return do(endpoint, request)


class Coroutine:
    async def infer(self, endpoint: str, request: Any) -> Any:
        await asyncio.sleep(0)
        return do(endpoint, request)


def do(endpoint: str, request: Any) -> Any:
    if endpoint == "fail":
        return {"ValueError": ValueError, "RuntimeError": RuntimeError}[request["type"]]("secret 7")
    if endpoint == "raise":
        raise {
            "ValueError": ValueError("seconds is negative"),
            "KeyError": KeyError("text"),
            "TypeError": TypeError("text is not a string"),
            "RuntimeError": RuntimeError("secret 7"),
            "SystemExit": SystemExit("secret 7"),
        }[request]
    if endpoint == "set":
        return {1, 2}
    return {"endpoint": endpoint, "request": request} if endpoint != "same" else request


@pytest.fixture(params=[Inline, Threaded, Coroutine])
async def replica(request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    async with serving(request.param()) as connection:
        yield connection


async def test_ready(replica: Connection) -> None:
    await replica.send("GET", "/ready")
    answer = await replica.answer()
    assert (answer.status, answer.json()) == (200, {"ready": True})
    await replica.send("HEAD", "/ready")
    assert (await replica.head()).status == 200


async def test_one_object_is_json(replica: Connection) -> None:
    answer = await replica.post("/generate", {"text": "ä\u2028"})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"endpoint": "generate", "request": {"text": "ä\u2028"}}


async def test_a_list_travels_as_several_items(replica: Connection) -> None:
    answer = await replica.post("/same", [{"a": 1}, {"a": 2}])
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.lines() == [{"a": 1}, {"a": 2}]
    assert (await replica.post("/same", [])).lines() == []


async def test_an_endpoint_may_have_slashes_and_escapes_or_be_empty(replica: Connection) -> None:
    assert (await replica.post("/v1/a%20b", 1)).json()["endpoint"] == "v1/a b"
    assert (await replica.post("/", 1)).json()["endpoint"] == ""
    assert (await replica.post("/ready", 1)).json()["endpoint"] == "ready"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "Expecting value at line 1, column 1"),
        (b'{"text": \n oops}', "Expecting value at line 2, column 2"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
async def test_malformed_json(replica: Connection, body: bytes, problem: str) -> None:
    await replica.send("POST", "/generate", body)
    answer = await replica.answer()
    assert answer.status == 400
    assert answer.json() == {
        "detail": f"the request's body is not JSON: {problem}",
        "reason": "MALFORMED_JSON",
    }
    assert (await replica.post("/same", {"still": "there"})).json() == {"still": "there"}


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        ("ValueError", "ValueError: seconds is negative"),
        ("KeyError", "KeyError: 'text'"),
        ("TypeError", "TypeError: text is not a string"),
    ],
)
async def test_a_request_that_the_mock_refuses(replica: Connection, kind: str, detail: str) -> None:
    answer = await replica.post("/raise", kind)
    assert (answer.status, answer.json()) == (422, {"detail": detail})


@pytest.mark.parametrize("kind", ["RuntimeError", "SystemExit"])
async def test_another_exception_goes_to_the_log_only(
    replica: Connection, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await replica.post("/raise", kind)
    assert answer.status == 500
    detail = answer.json()["detail"]
    assert detail.startswith(f"{kind} in tests.integration.test_replica_server_http.")
    assert detail.endswith(".infer; see the replica's log")
    assert b"secret" not in answer.body
    assert "secret 7" in caplog.text
    assert "Traceback" in caplog.text
    assert (await replica.post("/same", {"still": "there"})).json() == {"still": "there"}


async def test_an_answer_that_is_not_json(replica: Connection) -> None:
    answer = await replica.post("/set", {})
    assert answer.status == 500
    assert "the answer is not JSON: Object of type set" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/generate", "POST"),
        ("PUT", "/generate", "POST"),
        ("DELETE", "/ready", "GET, HEAD, POST"),
    ],
)
async def test_another_method(replica: Connection, method: str, path: str, allow: str) -> None:
    await replica.send(method, path)
    answer = await replica.answer()
    assert answer.status == 405
    assert answer.headers["allow"] == allow
    assert "POST /{endpoint}" in answer.json()["detail"]


async def test_a_body_at_the_limit_is_taken_and_one_above_is_not() -> None:
    async with serving(Inline(), max_body_bytes=1000) as replica:
        assert len((await replica.post("/same", "x" * 998)).json()) == 998
        answer = await replica.post("/same", "x" * 999)
        assert answer.status == 413
        assert answer.json()["reason"] == "BODY_TOO_LARGE"
        assert "1000 bytes" in answer.json()["detail"]
        assert await replica.reader.read() == b""  # closed: what follows the body is not known


async def test_a_body_that_is_far_too_large_is_not_waited_for() -> None:
    async with serving(Inline(), max_body_bytes=1000) as replica:
        await replica.send("POST", "/same", b"x", {"Content-Length": "5000000000"})
        assert (await replica.answer()).status == 413


async def test_a_chunked_body_without_end_is_not_read_on() -> None:
    async with serving(Inline(), max_body_bytes=1000) as replica:
        await replica.send("POST", "/same", headers={"Transfer-Encoding": "chunked"})
        replica.writer.write(b"bb8\r\n" + b"x" * 3000 + b"\r\n")
        assert (await replica.answer()).status == 413


async def test_calls_that_block_do_not_hold_up_others() -> None:
    release = threading.Event()

    class Blocking:
        def infer(self, endpoint: str, request: Any) -> Any:
            assert release.wait(30)
            return request

    async with serving(Blocking()) as first:
        await first.send("POST", "/x", b"1")
        port = first.writer.get_extra_info("peername")[1]
        async with connect(port) as second:
            await second.send("GET", "/ready")
            assert (await second.answer()).status == 200
        release.set()
        assert (await first.answer()).json() == 1


async def test_calls_that_block_are_bounded() -> None:
    lock = threading.Lock()
    both = threading.Semaphore(0)
    release = threading.Event()
    running = most = 0

    class Counting:
        def infer(self, endpoint: str, request: Any) -> Any:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            both.release()
            assert release.wait(30)
            with lock:
                running -= 1
            return request

    server = ReplicaServer(Counting(), threads=2)
    port = await server.start()

    async def call(number: int) -> Any:
        async with connect(port) as connection:
            return (await connection.post("/x", number)).json()

    calls = [asyncio.create_task(call(number)) for number in range(6)]
    for _ in range(2):
        assert await asyncio.to_thread(both.acquire, timeout=30)
    release.set()
    assert await asyncio.gather(*calls) == list(range(6))
    assert most == 2
    await server.stop(5)
