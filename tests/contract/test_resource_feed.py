"""Watches: every change once, in order, whoever writes and whoever watches."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from podbay.v1 import common_pb2, errors_pb2
from podbay_kit.auth import Scope
from podbay_kit.errors import ServiceError
from podbay_kit.resource_feed import ChangeFeed, WatchEvent
from podbay_kit.resource_filters import CompiledFilter, ResourceFilter, compile_filter
from podbay_kit.resources import ResourceStore, define_resource_tables
from podbay_kit.storage import Database
from tests.support.resource_store import (
    SHIPS,
    START,
    VOYAGES,
    Ship,
    StoreUnderTest,
    Voyage,
    opened_store,
    ship,
)

CREATED = common_pb2.CHANGE_TYPE_CREATED
UPDATED = common_pb2.CHANGE_TYPE_UPDATED
DELETED = common_pb2.CHANGE_TYPE_DELETED
PROGRESS = common_pb2.CHANGE_TYPE_UNSPECIFIED


@pytest.fixture
async def under_test(database_url: str) -> AsyncIterator[StoreUnderTest]:
    async with opened_store(database_url) as store:
        yield store


class Watcher:
    """Collects what a watch sends, on a task of its own."""

    def __init__(
        self,
        feed: ChangeFeed,
        after: int = 0,
        *,
        selected: CompiledFilter | None = None,
        scope: Scope | None = None,
    ) -> None:
        self.stopping = asyncio.Event()
        self._watch = feed.watch(
            SHIPS,
            after,
            stopping=self.stopping,
            selected=selected or CompiledFilter(),
            scope=scope or Scope(everything=True),
        )

    async def next(self) -> WatchEvent[Ship]:
        async with asyncio.timeout(30):
            return await anext(self._watch)

    async def next_change(self) -> WatchEvent[Ship]:
        while True:
            event = await self.next()
            if event.type != PROGRESS:
                return event

    async def until(self, revision: int) -> list[WatchEvent[Ship]]:
        """Return all changes that came until everything up to a revision was sent."""
        found = []
        while True:
            event = await self.next()
            if event.type != PROGRESS:
                found.append(event)
            if event.revision >= revision:
                return found


def shown(events: list[WatchEvent[Ship]]) -> list[tuple[int, int, str]]:
    return [(e.revision, e.type, e.entity.status if e.entity else "") for e in events]


async def test_a_watch_from_zero_sends_what_is_there_and_then_progress(
    under_test: StoreUnderTest,
) -> None:
    await under_test.add(ship(1), ship(2), ship(3))
    await under_test.put(ship(1, status="Ready"))
    await under_test.put(ship(2, status="Deleted"))
    watcher = Watcher(under_test.feed)
    events = [await watcher.next() for _ in range(3)]
    # In the order of their last changes, so that a watch can go on from any of them.
    assert shown(events) == [(3, CREATED, "Created"), (4, CREATED, "Ready"), (5, PROGRESS, "")]


async def test_an_empty_store_gives_progress_at_once(under_test: StoreUnderTest) -> None:
    assert await Watcher(under_test.feed).next() == WatchEvent(0)


async def test_changes_come_after_what_is_there(under_test: StoreUnderTest) -> None:
    watcher = Watcher(under_test.feed)
    await watcher.next()
    await under_test.add(ship(1))
    assert shown([await watcher.next()]) == [(1, CREATED, "Created")]
    await under_test.put(ship(1, status="Ready"))
    await under_test.put(ship(1, status="Deleted"))
    assert shown(await watcher.until(3)) == [(2, UPDATED, "Ready"), (3, DELETED, "Deleted")]


async def test_a_watch_goes_on_from_a_revision(under_test: StoreUnderTest) -> None:
    await under_test.add(ship(1), ship(2), ship(3))
    events = await Watcher(under_test.feed, 1).until(3)
    assert shown(events) == [(2, CREATED, "Created"), (3, CREATED, "Created")]


async def test_other_kinds_bring_progress_only(database_url: str) -> None:
    async with opened_store(database_url, progress_interval=0.01) as under_test:
        await under_test.add(ship(1))
        watcher = Watcher(under_test.feed, 1)
        voyage = Voyage(id="v", inferenceService={"id": "s", "name": "n"})
        await under_test.feed.write(
            lambda conn: under_test.store.insert(conn, VOYAGES, voyage, now=START)
        )
        assert await watcher.until(2) == []


async def test_idle_watches_send_progress_again_and_again(database_url: str) -> None:
    async with opened_store(database_url, progress_interval=0.01) as under_test:
        await under_test.add(ship(1))
        watcher = Watcher(under_test.feed, 1)
        assert [await watcher.next() for _ in range(3)] == [WatchEvent(1)] * 3


async def test_a_filter_also_sends_the_change_that_ends_the_match(
    under_test: StoreUnderTest,
) -> None:
    selected = compile_filter(ResourceFilter(status="Ready"), SHIPS)
    watcher = Watcher(under_test.feed, selected=selected)
    await watcher.next()
    await under_test.add(ship(1), ship(2))
    await under_test.put(ship(1, status="Ready"))
    await under_test.put(ship(1, status="Error"))
    await under_test.put(ship(1, status="Error", reason="Late"))
    await under_test.put(ship(2, status="Ready"))
    await under_test.put(ship(2, status="Deleted"))
    assert shown(await watcher.until(7)) == [
        (3, UPDATED, "Ready"),
        (4, UPDATED, "Error"),
        (6, UPDATED, "Ready"),
        (7, DELETED, "Deleted"),
    ]


async def test_a_watch_shows_only_its_scope(under_test: StoreUnderTest) -> None:
    await under_test.add(ship(1), ship(2, account="other"))
    watcher = Watcher(under_test.feed, scope=Scope(accounts=frozenset({"other"})))
    await under_test.put(ship(1, status="Ready"))
    await under_test.put(ship(2, account="other", status="Ready"))
    events = await watcher.until(4)
    assert {event.entity.account for event in events if event.entity} == {"other"}


async def test_stopping_ends_a_waiting_watch(under_test: StoreUnderTest) -> None:
    watcher = Watcher(under_test.feed)
    await watcher.next()
    waiting = asyncio.create_task(watcher.next())
    await asyncio.sleep(0)
    watcher.stopping.set()
    with pytest.raises(ServiceError) as caught:
        await waiting
    assert caught.value.reason == errors_pb2.ERROR_REASON_SERVICE_STOPPING


@pytest.mark.parametrize("revision", [-1, 2**63])
async def test_revisions_out_of_range_are_refused(
    under_test: StoreUnderTest, revision: int
) -> None:
    with pytest.raises(ServiceError) as caught:
        Watcher(under_test.feed, revision)
    assert caught.value.reason == errors_pb2.ERROR_REASON_INVALID_REQUEST


async def test_a_watch_behind_compaction_must_list_again(under_test: StoreUnderTest) -> None:
    await under_test.add(*(ship(n) for n in range(1, 6)))
    await under_test.database.write(
        lambda conn: under_test.store.log.compact(conn, START, keep=2, age=timedelta(days=1))
    )
    for revision in (2, 6):
        with pytest.raises(ServiceError) as caught:
            await Watcher(under_test.feed, revision).next()
        assert caught.value.reason == errors_pb2.ERROR_REASON_REVISION_COMPACTED
    assert len(await Watcher(under_test.feed, 3).until(5)) == 2
    assert len(await Watcher(under_test.feed, 0).until(5)) == 5


async def test_a_feed_that_slept_through_compaction_serves_on(database_url: str) -> None:
    async with opened_store(database_url) as under_test:
        await under_test.add(ship(1))
        await Watcher(under_test.feed, 1).next()
        await under_test.add(*(ship(n) for n in range(2, 9)))
        await under_test.database.write(
            lambda conn: under_test.store.log.compact(conn, START, keep=2, age=timedelta(days=1))
        )
        assert len(await Watcher(under_test.feed, 6).until(8)) == 2
        watcher = Watcher(under_test.feed, 8)
        await watcher.next()
        await under_test.add(ship(9))
        assert (await watcher.next_change()).revision == 9


async def test_writes_of_another_process_are_found(database_url: str) -> None:
    async with opened_store(database_url, poll_interval=0.02) as under_test:
        watcher = Watcher(under_test.feed)
        await watcher.next()
        # Another process has a database and no feed in common with this one.
        database = Database(under_test.url)
        try:
            await database.write(
                lambda conn: under_test.store.insert(conn, SHIPS, ship(1), now=START)
            )
        finally:
            await database.close()
        assert shown([await watcher.next_change()]) == [(1, CREATED, "Created")]


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what grows with each read of a database from now on."""
    reads: list[Any] = []
    read = Database.read

    async def counted(self: Database, function: Any) -> Any:
        reads.append(function)
        return await read(self, function)

    monkeypatch.setattr(Database, "read", counted)
    return reads


async def test_many_watchers_share_what_is_read(
    under_test: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    watchers = [Watcher(under_test.feed) for _ in range(50)]
    for watcher in watchers:
        await watcher.next()
    reads = counted_reads(monkeypatch)
    waiting = [asyncio.create_task(watcher.next_change()) for watcher in watchers]
    await asyncio.sleep(0)
    await under_test.add(ship(1))
    events = await asyncio.gather(*waiting)
    assert {event.revision for event in events} == {1}
    assert len(reads) < 10


async def test_a_change_between_a_snapshot_and_the_first_look_is_read_once(
    under_test: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    watchers = [Watcher(under_test.feed) for _ in range(50)]
    for watcher in watchers:
        await watcher.next()
    await under_test.add(ship(1))
    reads = counted_reads(monkeypatch)
    events = await asyncio.gather(*(watcher.next_change() for watcher in watchers))
    assert {event.revision for event in events} == {1}
    assert len(reads) < 10


async def test_an_abandoned_watch_leaves_no_task(under_test: StoreUnderTest) -> None:
    watcher = Watcher(under_test.feed)
    await watcher.next()
    waiting = asyncio.create_task(watcher.next())
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Model:
    """What a follower of a watch believes to be there."""

    def __init__(self) -> None:
        self.statuses: dict[str, str] = {}
        self.revisions: list[int] = []
        self.last = 0

    def take(self, event: WatchEvent[Ship]) -> None:
        assert event.revision >= self.last
        if event.entity is not None:
            assert event.revision > self.last or not self.revisions
            self.revisions.append(event.revision)
            self.statuses[event.entity.id] = event.entity.status
        self.last = event.revision


@pytest.mark.parametrize("seed", range(3))
async def test_no_gap_no_repeat_in_order_under_load(database_url: str, seed: int) -> None:
    """Writers write at once, followers fall behind, break off and go on; nothing is lost."""
    async with opened_store(database_url, kept=16, poll_interval=0.05) as under_test:
        chance = random.Random(seed)
        truth: dict[int, str] = {}
        writes = 60
        writers = 4
        total = writers * writes

        async def write(writer: int, feed: ChangeFeed) -> None:
            for number in range(writes):
                entity = ship(writer * 1000 + number // 2, status=f"S{number}")

                def transaction(
                    conn: Any, entity: Ship = entity, new: bool = number % 2 == 0
                ) -> int:
                    if new:
                        under_test.store.insert(conn, SHIPS, entity, now=START)
                    else:
                        under_test.store.update(conn, SHIPS, entity, now=START)
                    return under_test.store.log.revision(conn)

                revision = await feed.write(transaction)
                assert revision not in truth
                truth[revision] = f"{entity.id} {entity.status}"
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.random() * 0.003)

        async def follow(watcher: Watcher, breaks: float) -> dict[int, str]:
            found: dict[int, str] = {}
            model = Model()
            last = 0
            while last < total:
                event = await watcher.next()
                model.take(event)
                last = event.revision
                if event.entity is not None:
                    assert event.revision not in found
                    found[event.revision] = f"{event.entity.id} {event.entity.status}"
                if last and chance.random() < breaks:
                    watcher = Watcher(under_test.feed, last)
                if chance.random() < 0.1:
                    await asyncio.sleep(chance.random() * 0.01)
            return found

        # One writer is another process: it has a database and a feed of its own.
        other = Database(under_test.url)
        other_feed = ChangeFeed(other, ResourceStore(define_resource_tables(_new_metadata())))
        try:
            followers = []
            for breaks in (0, 0, 0.05, 0.3):
                # Before anything is written: what is there is sent by its last change only.
                watcher = Watcher(under_test.feed, 0)
                assert await watcher.next() == WatchEvent(0)
                followers.append(asyncio.create_task(follow(watcher, breaks)))
            await asyncio.gather(
                *(
                    write(writer, other_feed if writer == 3 else under_test.feed)
                    for writer in range(writers)
                )
            )
            results = await asyncio.gather(*followers)
        finally:
            await other.close()
        assert sorted(truth) == list(range(1, total + 1))
        for found in results:
            assert found == truth


def _new_metadata() -> Any:
    import sqlalchemy as sa  # noqa: PLC0415 # only here

    return sa.MetaData()
