"""Looking at many drivers: those that hang or break hold up no others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from podbay_session_manager.driver_set import DriverSet
from podbay_session_manager.drivers.contract import NodeFacts, ObservedReplica
from podbay_session_manager.drivers.fake import FakeDriver
from podbay_session_manager.observer import Observer


class Driver(FakeDriver):
    """A driver whose answers a test holds back, or breaks."""

    def __init__(self, node: str) -> None:
        super().__init__(lambda: 0.0, facts=NodeFacts(node, node, 1, 1), kind="docker")
        self.go = asyncio.Event()
        self.go.set()
        self.broken = False
        self.asked = 0

    async def list(self) -> Sequence[ObservedReplica]:
        self.asked += 1
        await self.go.wait()
        if self.broken:
            raise OSError("a defect")
        return await super().list()


async def test_a_driver_that_hangs_is_not_waited_for_and_not_asked_twice() -> None:
    slow, quick = Driver("slow"), Driver("quick")
    slow.go.clear()
    news = asyncio.Event()
    observer = Observer(DriverSet([slow, quick]), news.set)
    first = await observer.look(frozenset({"r1"}))
    assert (list(first.listed), list(first.silent)) == (["docker/quick"], ["docker/slow"])
    second = await observer.look(frozenset())
    assert (slow.asked, quick.asked) == (1, 2)
    assert list(second.silent) == ["docker/slow"]
    assert second.silent["docker/slow"] > first.silent["docker/slow"] > 0.4
    slow.go.set()
    await asyncio.wait_for(news.wait(), 10)
    third = await observer.look(frozenset({"r2"}))
    assert set(third.listed) == {"docker/quick", "docker/slow"}
    # What was being started when the slow one was asked may not be in its answer.
    assert third.starting == {"r1", "r2"}
    await observer.close()


async def test_a_driver_that_cannot_tell_says_why() -> None:
    cut, broken = Driver("cut"), Driver("broken")
    cut.unreachable = broken.broken = True
    observer = Observer(DriverSet([cut, broken]), lambda: None)
    sight = await observer.look(frozenset())
    assert "cannot be reached" in sight.unreachable["docker/cut"]
    assert "did not expect" in sight.unreachable["docker/broken"]
    assert "a defect" not in sight.unreachable["docker/broken"]
    await observer.close()


async def test_the_answer_of_a_driver_that_was_replaced_counts_for_nothing() -> None:
    old, new = Driver("n"), Driver("n")
    old.go.clear()
    drivers = DriverSet([old])
    observer = Observer(drivers, lambda: None)
    assert list((await observer.look(frozenset())).silent) == ["docker/n"]
    assert drivers.put(new) is old
    assert list((await observer.look(frozenset())).listed) == ["docker/n"]
    assert new.asked == 1
    drivers.take("docker/n")
    assert (await observer.look(frozenset())).listed == {}
    await observer.close()


async def test_drivers_that_come_later_are_told_to_listeners() -> None:
    told: list[str] = []
    drivers = DriverSet([Driver("a")])
    drivers.listen(lambda driver: told.append(driver.name))
    drivers.put(Driver("b"))
    assert told == ["docker/a", "docker/b"]
    assert [driver.name for driver in drivers.by_kind] == ["docker/a"]
    assert len(drivers) == 2
