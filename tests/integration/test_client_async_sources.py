"""`infer_many` of the asynchronous face over an asynchronous source of bodies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from podbay import AsyncClient
from tests.support.eventually import eventually
from tests.support.fake_router import silent
from tests.support.fake_services import FakeInstallation


@pytest.fixture
def fake() -> Iterator[FakeInstallation]:
    made = FakeInstallation()
    made.start()
    yield made
    made.stop()


@pytest.fixture
async def calls(fake: FakeInstallation) -> AsyncIterator[Any]:
    async with AsyncClient(fake.registry.address, "t", timeout=20.0) as client:
        yield client.inferencesessions.client("s", "t", endpoint="e")


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0)
        yield number


@pytest.mark.parametrize("ordered", [True, False])
async def test_bodies_come_from_an_async_generator(calls: Any, ordered: bool) -> None:
    results = [r async for r in calls.infer_many(numbers(100), max_in_flight=7, ordered=ordered)]
    assert sorted(r.index for r in results) == list(range(100))
    assert all(r.items == [r.index] for r in results)


async def test_results_come_while_the_source_waits(calls: Any) -> None:
    more = asyncio.Event()

    async def waits() -> AsyncIterator[int]:
        yield 1
        await more.wait()
        yield 2

    async with aclosing(calls.infer_many(waits())) as results:
        assert (await asyncio.wait_for(anext(results), 20)).items == [1]
        more.set()
        assert [r.items async for r in results] == [[2]]


async def test_bodies_are_taken_only_when_there_is_room(calls: Any, fake: FakeInstallation) -> None:
    fake.router.on_call = silent
    taken = 0

    async def endless() -> AsyncIterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    async with aclosing(calls.infer_many(endless(), max_in_flight=5)) as results:
        first = asyncio.ensure_future(anext(results))
        await eventually(lambda: len(fake.router.calls) == 5, "five calls")
        for call in list(fake.router.streams[0].calls):
            fake.router.streams[0].answer(call.id, b"0")
        assert (await first).items == [0]
        assert taken <= 12


async def test_an_error_of_the_source_is_the_caller_s(calls: Any) -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        _ = [result async for result in calls.infer_many(broken(), max_in_flight=1)]


async def test_leaving_cancels_a_source_that_waits(calls: Any) -> None:
    left = asyncio.Event()

    async def waits() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            left.set()

    async with aclosing(calls.infer_many(waits())) as results:
        assert (await anext(results)).items == [1]
        pending = asyncio.ensure_future(anext(results))
        await asyncio.sleep(0)
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending
    await asyncio.wait_for(left.wait(), 20)
