"""Output adapters over streams: pieces flow as they come, and state lasts over all of them."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from podbay import AsyncClient, errors
from podbay.schema.adapters import create_pipeline
from tests.support.client_faces import AsyncFace, SyncFace
from tests.support.eventually import eventually, eventually_sync
from tests.support.fake_router import silent
from tests.support.fake_services import FakeInstallation


@pytest.fixture(params=[SyncFace, AsyncFace], ids=["sync", "async"])
def face(request: Any) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def fake() -> Iterator[FakeInstallation]:
    made = FakeInstallation()
    made.router.on_call = silent
    made.start()
    yield made
    made.stop()


@pytest.fixture
def client(face: Any, fake: FakeInstallation) -> Iterator[Any]:
    with face.client(fake.registry.address, timeout=20.0) as made:
        yield made


def call_of(fake: FakeInstallation, number: int = 0) -> Any:
    eventually_sync(lambda: len(fake.router.calls) > number, "the call at the router")
    stream = fake.router.streams[-1]
    return stream, stream.calls[-1].id


def pairs(items: Iterable[Any]) -> Iterator[Any]:
    """An adapter with state: it needs two items for each output."""
    for first, second in itertools.pairwise(items):
        yield [first, second]


def start(client: Any, fake: FakeInstallation, adapter: Any) -> tuple[Any, Any, int, Any]:
    """Begin a stream; return it, with its first output under way in a thread."""
    # Kept: a session client that is forgotten ends its stream.
    calls = client.kept = client.inferencesessions.client(
        "s", "t", endpoint="e", output_adapter=adapter
    )
    results = calls.stream({})
    got: list[Any] = []

    def take(count: int) -> threading.Thread:
        thread = threading.Thread(target=lambda: got.extend(itertools.islice(results, count)))
        thread.start()
        return thread

    thread = take(1)
    stream, call_id = call_of(fake)
    return (results, got, thread), stream, call_id, take


@pytest.mark.parametrize("adapter", [pairs, lambda items: map(list, itertools.pairwise(items))])
def test_pieces_flow_through_an_adapter_with_state(
    client: Any, fake: FakeInstallation, adapter: Any
) -> None:
    (results, got, thread), stream, call_id, take = start(client, fake, adapter)
    stream.answer(call_id, b"1", done=False)
    stream.answer(call_id, b"2", done=False)
    thread.join(20)
    # The first output is there although the answer goes on.
    assert got == [[1, 2]]
    thread = take(2)
    stream.answer(call_id, b"3", b"4", done=False)
    thread.join(20)
    assert got == [[1, 2], [2, 3], [3, 4]]
    stream.answer(call_id, b"5", done=True)
    assert list(results) == [[4, 5]]


def test_an_adapter_that_wants_no_more_cancels_the_call(
    client: Any, fake: FakeInstallation
) -> None:
    (results, got, thread), stream, call_id, _ = start(
        client, fake, lambda items: itertools.islice(items, 2)
    )
    stream.answer(call_id, b"1", b"2", b"3", done=False)
    thread.join(20)
    assert got + list(results) == [1, 2]
    eventually_sync(lambda: stream.cancels == [call_id], "the cancel at the router")


def test_leaving_the_stream_leaves_the_adapter(client: Any, fake: FakeInstallation) -> None:
    left: list[str] = []

    def notes(items: Iterable[Any]) -> Iterator[Any]:
        try:
            yield from items
        finally:
            left.append("left")

    (results, got, thread), stream, call_id, _ = start(client, fake, notes)
    stream.answer(call_id, b"1", done=False)
    thread.join(20)
    results.close()
    assert (got, left) == ([1], ["left"])
    eventually_sync(lambda: stream.cancels == [call_id], "the cancel at the router")


def test_errors_pass_through_the_adapter(client: Any, fake: FakeInstallation) -> None:
    (results, got, thread), stream, call_id, _ = start(client, fake, iter)
    stream.answer(call_id, b"1", done=False)
    thread.join(20)
    stream.fail(call_id, "REPLICA_CONNECTION_LOST")
    with pytest.raises(errors.ReplicaError):
        next(results)
    assert got == [1]


def test_the_adapter_s_own_error_ends_the_call(client: Any, fake: FakeInstallation) -> None:
    def broken(items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if item == 2:
                raise KeyError("mine")
            yield item

    (results, got, thread), stream, call_id, _ = start(client, fake, broken)
    stream.answer(call_id, b"1", b"2", done=False)
    thread.join(20)
    with pytest.raises(KeyError, match="mine"):
        next(results)
    assert got == [1]
    eventually_sync(lambda: stream.cancels == [call_id], "the cancel at the router")


def test_a_pipeline_yields_what_came_before_an_item_that_does_not_fit(
    client: Any, fake: FakeInstallation
) -> None:
    pipeline = create_pipeline([{"kind": "Select", "configuration": {"fields": ["a"]}}])
    (results, got, thread), stream, call_id, _ = start(client, fake, pipeline)
    stream.answer(call_id, b'{"a": 1, "b": 2}', b'{"b": 1}', done=True)
    thread.join(20)
    with pytest.raises(KeyError):
        next(results)
    assert got == [{"a": 1}]


@pytest.fixture
async def calls(fake: FakeInstallation) -> AsyncIterator[Any]:
    async with AsyncClient(fake.registry.address, "t", timeout=20.0) as client:
        await client.installation()
        yield client.inferencesessions.client("s", "t", endpoint="e", output_adapter=pairs)


def adapter_threads() -> int:
    return sum(thread.name.startswith("podbay-adapter") for thread in threading.enumerate())


async def test_a_cancelled_task_leaves_an_adapter_that_waits(
    calls: Any, fake: FakeInstallation
) -> None:
    async def read() -> list[Any]:
        async with aclosing(calls.stream({})) as results:
            return [result async for result in results]

    task = asyncio.create_task(read())
    stream, call_id = await asyncio.to_thread(call_of, fake)
    stream.answer(call_id, b"1", done=False)
    await eventually(adapter_threads, "the adapter's thread")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(
        eventually_sync, lambda: stream.cancels == [call_id], "the cancel at the router"
    )
    await asyncio.to_thread(eventually_sync, lambda: not adapter_threads(), "the thread's end")


async def test_many_streams_wait_in_their_adapters_at_once(
    calls: Any, fake: FakeInstallation
) -> None:
    async def read() -> list[Any]:
        return [result async for result in calls.stream({})]

    tasks = [asyncio.create_task(read()) for _ in range(50)]

    def all_there() -> Any:
        eventually_sync(lambda: len(fake.router.calls) == 50, "all calls at the router")
        return fake.router.streams[0]

    began = time.monotonic()
    stream = await asyncio.to_thread(all_there)
    for call in stream.calls:
        stream.answer(call.id, b"1", done=False)
    for call in stream.calls:
        stream.answer(call.id, b"2", done=True)
    assert await asyncio.gather(*tasks) == [[[1, 2]]] * 50
    assert time.monotonic() - began < 30
    await asyncio.to_thread(eventually_sync, lambda: not adapter_threads(), "the threads' end")
