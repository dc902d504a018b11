"""What an audit log's store does, over every database that it can be kept in."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from podbay_kit.audit import AuditRecord
from podbay_kit.audit_store import AuditQuery, AuditStore, Retention
from podbay_kit.auth import Scope
from podbay_kit.errors import ServiceError
from podbay_kit.storage import Database, migrate
from podbay_registry.tables import AUDIT

START = datetime(2030, 1, 1, tzinfo=UTC)
ALL = Scope(everything=True)


class Log:
    """A store with its database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = AuditStore(AUDIT)

    async def add(self, number: int, **fields: Any) -> AuditRecord:
        record = AuditRecord(
            **{
                "id": uuid.uuid4().hex,
                "time": START + timedelta(seconds=number),
                "method": "CreateModel",
                "resource": "models",
                "account": "acme",
                "resource_id": f"m{number}",
                "actor_account": "acme",
                "actor_token": "pbt_1",
                "call_id": uuid.uuid4().hex,
                **fields,
            }
        )
        await self.database.write(lambda conn: self.store.append(conn, record))
        return record

    async def list(
        self, query: AuditQuery | None = None, scope: Scope = ALL, *, size: int = 100
    ) -> list[AuditRecord]:
        found: list[AuditRecord] = []
        token = ""
        while True:
            page, token = await self.database.read(
                lambda conn, token=token: self.store.list_page(
                    conn, query or AuditQuery(), scope, size=size, token=token
                )
            )
            assert len(page) <= size
            found += page
            if not token:
                return found

    async def purge(self, keep: Retention, seconds: float) -> int:
        now = START + timedelta(seconds=seconds)
        return await self.database.write(lambda conn: self.store.purge(conn, keep, now))


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[Log]:
    migrate(database_url, "podbay_registry")
    database = Database(database_url)
    yield Log(database)
    await database.close()


async def test_what_was_written_comes_back_newest_first(log: Log) -> None:
    full = await log.add(
        1, peer="10.0.0.1:5", code=7, reason=25, count=9, first_time=START, details={"a": "b"}
    )
    plain = await log.add(2, account="", resource_id="")
    assert await log.list() == [plain, full]


async def test_pages_are_whole_also_where_times_are_equal(log: Log) -> None:
    made = [await log.add(number // 7) for number in range(25)]
    for size in (1, 3, 7, 25, 100):
        found = await log.list(size=size)
        assert sorted(each.id for each in found) == sorted(each.id for each in made)
        assert [each.time for each in found] == sorted((each.time for each in found), reverse=True)


async def test_new_entries_do_not_disturb_pages(log: Log) -> None:
    made = [await log.add(number) for number in range(6)]
    first, token = await log.database.read(
        lambda conn: log.store.list_page(conn, AuditQuery(), ALL, size=3, token="")
    )
    await log.add(7)
    second, end = await log.database.read(
        lambda conn: log.store.list_page(conn, AuditQuery(), ALL, size=3, token=token)
    )
    assert [*first, *second] == made[::-1]
    assert end == ""


async def test_a_token_of_another_list_is_refused(log: Log) -> None:
    for number in range(3):
        await log.add(number)
    _, token = await log.database.read(
        lambda conn: log.store.list_page(conn, AuditQuery(), ALL, size=1, token="")
    )
    other = AuditQuery(account="acme")
    with pytest.raises(ServiceError):
        await log.database.read(
            lambda conn: log.store.list_page(conn, other, ALL, size=1, token=token)
        )


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        (AuditQuery(account="acme"), {1, 2}),
        (AuditQuery(resource="nodes"), {3}),
        (AuditQuery(resource_id="m2"), {2}),
        (AuditQuery(actor="pbt_2"), {2}),
        (AuditQuery(actor="beta"), {3}),
        (AuditQuery(method="DrainNode"), {3}),
        (AuditQuery(failed=True), {2}),
        (AuditQuery(failed=False), {1, 3}),
        (AuditQuery(since=START + timedelta(seconds=2)), {2, 3}),
        (AuditQuery(until=START + timedelta(seconds=2)), {1}),
        (AuditQuery(account="acme", failed=False), {1}),
        (AuditQuery(account="nobody"), set()),
    ],
)
async def test_filters(log: Log, query: AuditQuery, numbers: set[int]) -> None:
    await log.add(1)
    await log.add(2, actor_token="pbt_2", code=7, reason=25)
    await log.add(3, actor_account="beta", resource="nodes", account="", method="DrainNode")
    assert {(each.time - START).seconds for each in await log.list(query)} == numbers


async def test_whose_entries_one_sees(log: Log) -> None:
    for number, account in enumerate(["acme", "beta", "", "beta"], start=1):
        await log.add(number, account=account)
    assert len(await log.list()) == 4
    mine = await log.list(scope=Scope(accounts=frozenset({"acme"})))
    assert [each.account for each in mine] == ["acme"]
    one = await log.list(scope=Scope(entities=frozenset({"m4"})))
    assert [each.resource_id for each in one] == ["m4"]
    assert await log.list(scope=Scope()) == []


async def test_what_is_too_old_goes_and_that_is_written_down(log: Log) -> None:
    for number in range(5):
        await log.add(number)
    keep = Retention(age=timedelta(seconds=100))
    assert await log.purge(keep, 50) == 0
    assert await log.purge(keep, 103) == 3
    left = await log.list()
    assert [each.resource_id for each in left[1:]] == ["m4", "m3"]
    assert (left[0].method, left[0].actor_token) == ("PurgeAuditRecords", "system")
    assert left[0].details == {"tooOld": "3", "tooMany": "0"}


async def test_a_flood_of_refusals_pushes_out_no_change(log: Log) -> None:
    await log.add(0)
    for number in range(1, 30):
        await log.add(number, code=16, reason=21)
    keep = Retention(changes=10, refusals=5)
    assert await log.purge(keep, 60) == 24
    assert await log.purge(keep, 60) == 0
    left = await log.list()
    assert [each.resource_id for each in left if each.code] == ["m29", "m28", "m27", "m26", "m25"]
    assert [each.resource_id for each in left if each.method == "CreateModel"][-1] == "m0"


async def test_too_many_changes_go_by_age(log: Log) -> None:
    for number in range(12):
        await log.add(number)
    assert await log.purge(Retention(changes=4, refusals=1), 60) == 8
    left = await log.list()
    assert [each.resource_id for each in left[1:]] == ["m11", "m10", "m9", "m8"]
