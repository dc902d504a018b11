"""Fifty writers, a hundred watchers, and lists by page meanwhile: nothing lost, nothing twice.

Half of them are another process: they have a database and a feed of their own. The writers make
`PODBAY_WATCH_WRITES` changes each: 6 by default.
"""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import aclosing
from typing import Any

import sqlalchemy as sa

from podbay.v1 import common_pb2, errors_pb2
from podbay_kit.auth import Scope
from podbay_kit.errors import ServiceError
from podbay_kit.resource_feed import ChangeFeed
from podbay_kit.resources import PageQuery, ResourceFilter, ResourceStore, define_resource_tables
from podbay_kit.storage import Database
from tests.support.resource_store import SHIPS, START, Ship, StoreUnderTest, opened_store, ship

WRITERS = 50
WATCHERS = 100
WRITES = int(os.environ.get("PODBAY_WATCH_WRITES", "6"))
STANDING = 60
PROGRESS = common_pb2.CHANGE_TYPE_UNSPECIFIED


class Side:
    """What one process has."""

    def __init__(self, database: Database, feed: ChangeFeed, store: ResourceStore) -> None:
        self.database = database
        self.feed = feed
        self.store = store

    async def page(self, token: str, size: int) -> Any:
        query = PageQuery(size, token, order_by="status")
        everything = Scope(everything=True)
        return await self.database.read(
            lambda conn: self.store.list_page(conn, SHIPS, ResourceFilter(), query, everything)
        )

    async def write(self, number: int) -> None:
        """Make, change and delete ships of one writer."""
        first = 1000 + number * 1000
        for n in range(WRITES):
            entity = ship(first + n // 2, status="Deleted" if n % 6 == 5 else f"S{n}")
            if n % 2:
                await self.feed.write(lambda c, e=entity: self.store.update(c, SHIPS, e, now=START))
            else:
                await self.feed.write(lambda c, e=entity: self.store.insert(c, SHIPS, e, now=START))

    async def list_and_watch(self, last: int, chance: random.Random) -> dict[str, str]:
        """Follow as a client does: list, watch from there, again where told so."""
        seen, position = await self.everything()
        while position < last:
            watch = self.feed.watch(SHIPS, position, stopping=asyncio.Event())
            try:
                async with asyncio.timeout(120), aclosing(_events(watch)) as events:
                    async for event in events:
                        if event.type != PROGRESS:
                            # Every revision is of a ship: none may be left out, none come twice.
                            assert event.revision == position + 1
                            seen[event.entity.id] = event.entity.status
                        assert event.revision >= position
                        position = event.revision
                        if position >= last or chance.random() < 0.01:
                            break
            except ServiceError as error:
                assert error.reason == errors_pb2.ERROR_REASON_REVISION_COMPACTED
                seen, position = await self.everything()
        return seen

    async def everything(self) -> tuple[dict[str, str], int]:
        found: dict[str, str] = {}
        token = ""
        while True:
            page = await self.page(token, 500)
            found.update({item.id: item.status for item in page.items})
            token = page.next_token
            if not token:
                return found, page.revision

    async def pages(self, going: asyncio.Event) -> int:
        """List by small pages again and again; those that nobody touches come once each time."""
        rounds = 0
        while not going.is_set():
            ids: list[str] = []
            token = ""
            while True:
                page = await self.page(token, 17)
                ids += [item.id for item in page.items if item.status == "Standing"]
                token = page.next_token
                if not token:
                    break
            assert sorted(ids) == [ship(n).id for n in range(STANDING)]
            rounds += 1
        return rounds


async def _events(watch: Any) -> Any:
    async for event in watch:
        yield event


async def test_nothing_is_lost_or_comes_twice(database_url: str) -> None:
    async with opened_store(database_url, kept=64) as under_test:
        await _stand(under_test)
        other = Database(database_url)
        store = ResourceStore(define_resource_tables(sa.MetaData()))
        sides = [
            Side(under_test.database, under_test.feed, under_test.store),
            Side(other, ChangeFeed(other, store, kept=64), store),
        ]
        last = STANDING + WRITERS * WRITES
        chance = random.Random(1)
        done = asyncio.Event()
        try:
            watching = [
                asyncio.create_task(sides[n % 2].list_and_watch(last, chance))
                for n in range(WATCHERS)
            ]
            paging = [asyncio.create_task(side.pages(done)) for side in sides]
            await asyncio.gather(*(sides[n % 2].write(n) for n in range(WRITERS)))
            seen = await asyncio.gather(*watching)
            done.set()
            assert min(await asyncio.gather(*paging)) > 0
            truth, revision = await sides[1].everything()
        finally:
            await other.close()
    assert revision == last
    assert len(truth) == STANDING + WRITERS * ((WRITES + 1) // 2)
    assert all(each == truth for each in seen)


async def _stand(under_test: StoreUnderTest) -> None:
    """Add what nobody touches afterwards."""

    def add(conn: sa.Connection) -> None:
        for n in range(STANDING):
            made: Ship = ship(n, status="Standing")
            under_test.store.insert(conn, SHIPS, made, now=START)

    await under_test.feed.write(add)
