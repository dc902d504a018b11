"""The lease over both databases: who takes it, and the check that stands in every write."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from podbay.v1 import errors_pb2
from podbay_kit.errors import ServiceError
from podbay_kit.storage import Database, migrate
from podbay_session_manager.lease_keeper import Lease, LeaseKeeper
from podbay_session_manager.lease_marks import LifeMarks
from podbay_session_manager.lease_store import LeaseStore
from podbay_session_manager.node_store import NodeStore, StoredNode

SECONDS = 5.0


class Rivals:
    """Two keepers on one database, with a clock that the test moves."""

    def __init__(self, folder: Path, url: str) -> None:
        self.now = 0.0
        self.folder = folder
        self.url = url
        migrate(self.url, "podbay_session_manager")
        self.database = Database(self.url)
        self.marks: list[LifeMarks] = []

    def keeper(self, name: str, *, elsewhere: bool = False) -> LeaseKeeper:
        folder = self.folder / ("elsewhere" if elsewhere else "leaders")
        self.marks.append(LifeMarks(folder, name))
        keeper = LeaseKeeper(
            LeaseStore(self.database), self.marks[-1], name, SECONDS, lambda: self.now
        )
        keeper.address = f"{name}:1"
        return keeper

    async def close(self) -> None:
        for mark in self.marks:
            mark.close()
        await self.database.close()


@pytest.fixture
async def rivals(tmp_path: Path, database_url: str) -> Any:
    made = Rivals(tmp_path, database_url)
    yield made
    await made.close()


async def _taken(keeper: LeaseKeeper) -> Lease:
    lease = await keeper.try_take()
    assert lease is not None
    return lease


async def test_a_write_of_an_earlier_term_is_refused_whatever_its_clock_says(
    rivals: Rivals,
) -> None:
    old, new = rivals.keeper("old"), rivals.keeper("new", elsewhere=True)
    lease = await _taken(old)
    store = NodeStore(rivals.database.guarded(lease.guard))
    await store.put(StoredNode("n", cordoned=True))
    assert await new.try_take() is None
    assert new.leader == "old:1"
    rivals.now += 10
    later = await _taken(new)
    assert later.term == lease.term + 1
    # As a process that was stopped after it had looked at its clock.
    lease.renewed(rivals.now + 100)
    assert lease.valid
    with pytest.raises(ServiceError) as failure:
        await store.put(StoredNode("n", cordoned=False))
    assert failure.value.reason == errors_pb2.ERROR_REASON_NOT_LEADER
    assert not lease.valid
    async with asyncio.timeout(10):
        await lease.lost.wait()
    others = NodeStore(rivals.database.guarded(later.guard))
    assert [node.cordoned for node in await others.load()] == [True]
    await others.put(StoredNode("m"))
    assert len(await others.load()) == 2


async def test_a_taking_over_waits_for_the_write_that_is_under_way(rivals: Rivals) -> None:
    old, new = rivals.keeper("old"), rivals.keeper("new", elsewhere=True)
    lease = await _taken(old)
    await new.try_take()
    rivals.now += 10
    guarded = rivals.database.guarded(lease.guard)
    other = Database(rivals.url)
    rival = LeaseStore(other)
    loop, checked, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def write(conn: sa.Connection) -> int:
        loop.call_soon_threadsafe(checked.set)
        assert go_on.wait(10)
        return LeaseStore.leads(conn, lease.term)

    writing = asyncio.create_task(guarded.write(write))
    await checked.wait()
    seen = await rival.read()
    taking = asyncio.create_task(rival.take(seen, "new", "new:1", SECONDS))
    for _ in range(20):
        assert (await rival.read()).term == lease.term
    assert not taking.done()
    go_on.set()
    assert await writing  # it led to its end
    assert await taking == lease.term + 1
    await other.close()


async def test_the_end_of_a_process_on_this_machine_is_known_at_once(rivals: Rivals) -> None:
    old, new = rivals.keeper("old"), rivals.keeper("new")
    await _taken(old)
    assert await new.try_take() is None
    rivals.marks.pop(0).close(keep=True)  # as the kernel does for a process that ended
    lease = await _taken(new)
    assert lease.term == 2


async def test_a_lease_that_was_given_back_is_had_at_once(rivals: Rivals) -> None:
    old, new = rivals.keeper("old"), rivals.keeper("new", elsewhere=True)
    lease = await _taken(old)
    assert await new.try_take() is None
    assert await old.release()
    assert (await _taken(new)).term == 2
    with pytest.raises(ServiceError):
        await rivals.database.guarded(lease.guard).write(lambda conn: None)


async def test_a_paused_leader_that_nobody_followed_goes_on_in_its_term(rivals: Rivals) -> None:
    keeper = rivals.keeper("old")
    lease = await _taken(keeper)
    rivals.now += 60
    assert not lease.valid
    settled = asyncio.create_task(lease.settled())
    holding = asyncio.create_task(keeper.hold(lease))
    async with asyncio.timeout(10):
        assert await settled
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    assert lease.valid
