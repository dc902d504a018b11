"""Tasks are closed by their owner, logged when they crash, and started again."""

from __future__ import annotations

import asyncio
import logging

import pytest

from podbay_kit.tasks import TaskSet
from tests.support.clock import FakeClock
from tests.support.eventually import eventually


async def test_close_cancels_and_waits():
    tasks = TaskSet()
    ended = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    tasks.spawn("work", work())
    await asyncio.sleep(0)
    await tasks.close()
    assert ended == [True]
    assert len(tasks) == 0
    with pytest.raises(RuntimeError, match="'late'"):
        tasks.spawn("late", work())


async def test_a_crash_is_logged_under_the_name(caplog):
    tasks = TaskSet()

    async def crash():
        raise LookupError("details")

    with caplog.at_level(logging.ERROR):
        tasks.spawn("crasher", crash())
        await eventually(lambda: "crasher" in caplog.text, "the crash is logged")
    await tasks.close()


async def test_forever_starts_again_with_growing_pauses(caplog):
    clock = FakeClock()
    tasks = TaskSet(clock=clock)
    runs = 0

    async def crash():
        nonlocal runs
        runs += 1
        raise LookupError

    tasks.spawn_forever("loop", crash, first_backoff=1, last_backoff=3)
    for expected, pause in enumerate((1, 2, 3, 3), start=1):
        await eventually(lambda n=expected: runs == n and clock.sleeping == 1, "it sleeps")
        clock.advance(pause - 0.01)
        await asyncio.sleep(0)
        assert runs == expected
        clock.advance(0.01)
    await eventually(lambda: runs == 5, "the fifth run")
    await tasks.close()
