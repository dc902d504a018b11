"""How long a start may take."""

from __future__ import annotations

import asyncio
import time

import pytest

from podbay_session_manager.actor import _start
from podbay_session_manager.drivers.contract import LaunchSpec, StartProgress
from podbay_session_manager.drivers.fake import FakeDriver
from podbay_session_manager.records import ServiceSpec, Serving

SPEC = LaunchSpec("r1", "s1", ServiceSpec(kind="mock", name="x"), Serving())


class SlowDriver(FakeDriver):
    """A driver whose start ends when it is let."""

    def __init__(self, *, moves: bool) -> None:
        super().__init__(time.monotonic)
        self.moves = moves
        self.looks = 0
        self.let = asyncio.Event()

    async def start(self, spec: LaunchSpec) -> None:
        await self.let.wait()
        await super().start(spec)

    def progress(self, replica_id: str) -> StartProgress | None:
        self.looks += 1
        if self.looks == 3:
            self.let.set()
        if not self.moves:
            return None
        return StartProgress("pulling", self.looks, 9, asyncio.get_running_loop().time())


async def test_a_start_that_stands_still_is_given_up() -> None:
    driver = SlowDriver(moves=False)
    with pytest.raises(TimeoutError):
        await _start(driver, SPEC, 0.01)
    assert await driver.list() == []


async def test_a_start_that_comes_further_has_time() -> None:
    driver = SlowDriver(moves=True)
    await _start(driver, SPEC, 0.01)
    # It was looked at after one, two and three times the limit.
    assert driver.looks >= 3
    assert len(await driver.list()) == 1
