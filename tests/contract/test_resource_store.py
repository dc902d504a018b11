"""What a resource store does, over every database that it can be kept in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from podbay.v1 import common_pb2, errors_pb2, model_pb2
from podbay_kit.auth import Scope
from podbay_kit.errors import ServiceError
from podbay_kit.resource_request_store import RequestKey
from podbay_kit.resources import Inserted, PageQuery, ResourceFilter
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

ALL = Scope(everything=True)
NEEDS_POSTGRESQL = pytest.mark.needs_postgresql
DAY = timedelta(days=1)


@pytest.fixture
async def under_test(database_url: str) -> AsyncIterator[StoreUnderTest]:
    async with opened_store(database_url) as store:
        yield store


async def numbers(
    under_test: StoreUnderTest,
    *,
    given: ResourceFilter | None = None,
    scope: Scope = ALL,
    size: int = 100,
    **page: Any,
) -> list[int]:
    """List all pages, and return the numbers of the ships."""
    found: list[int] = []
    token = ""
    while True:
        query = PageQuery(size, token, **page)
        got = await under_test.database.read(
            lambda conn, query=query: under_test.store.list_page(
                conn, SHIPS, given or ResourceFilter(), query, scope
            )
        )
        assert len(got.items) <= size
        found += [int(item.id, 16) for item in got.items]
        token = got.next_token
        if not token:
            return found


async def insert(
    under_test: StoreUnderTest, entity: Ship, request: RequestKey | None, now: Any = START
) -> Inserted[Ship]:
    return await under_test.database.write(
        lambda conn: under_test.store.insert(conn, SHIPS, entity, now=now, request=request)
    )


async def test_what_was_inserted_is_returned_whole(under_test: StoreUnderTest) -> None:
    given = ship(1, reason="Why", labels={"a": "1"}, crew=[{"name": "Dave", "note": None}])
    await under_test.add(given)
    got = await under_test.database.read(lambda conn: under_test.store.get(conn, SHIPS, given.id))
    assert got == given


@pytest.mark.parametrize(
    "given", ["", "x", "\0", "ö" * 5000, "'; DROP TABLE resources; --", "../.."]
)
async def test_ids_of_any_form_are_not_found(under_test: StoreUnderTest, given: str) -> None:
    with pytest.raises(ServiceError) as caught:
        await under_test.database.read(lambda conn: under_test.store.get(conn, SHIPS, given))
    assert caught.value.reason == errors_pb2.ERROR_REASON_MODEL_NOT_FOUND
    with pytest.raises(ServiceError):
        await under_test.put(Ship(id=given))


@pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=NEEDS_POSTGRESQL)])
@pytest.mark.parametrize("name", ["".join(map(chr, range(0x4E00, 0x6000))), "a\0b"])
async def test_what_postgresql_cannot_hold_is_the_requests_fault(
    under_test: StoreUnderTest, name: str
) -> None:
    with pytest.raises(ServiceError) as caught:
        await insert(under_test, ship(1, name=name), None)
    assert caught.value.reason == errors_pb2.ERROR_REASON_INVALID_REQUEST
    assert name not in caught.value.message
    await under_test.add(ship(1, name=name[:1]))


async def test_an_id_is_taken_once_in_its_kind(under_test: StoreUnderTest) -> None:
    await under_test.add(ship(1))
    with pytest.raises(ServiceError) as caught:
        await under_test.add(ship(1))
    assert caught.value.reason == errors_pb2.ERROR_REASON_ALREADY_EXISTS
    voyage = Voyage(id=ship(1).id, inferenceService={"id": "s", "name": "n"})
    await under_test.database.write(
        lambda conn: under_test.store.insert(conn, VOYAGES, voyage, now=START)
    )
    assert await numbers(under_test) == [1]


async def test_every_change_takes_the_next_revision(under_test: StoreUnderTest) -> None:
    assert await under_test.database.read(under_test.store.log.revision) == 0
    await under_test.add(ship(1), ship(2))
    assert await under_test.put(ship(1, status="Ready")) == 3
    # Nothing differs, so nothing is written.
    assert await under_test.put(ship(1, status="Ready")) == 3
    assert await under_test.put(ship(2)) == 2
    assert await under_test.database.read(under_test.store.log.revision) == 3
    changes, reached = await under_test.database.read(
        lambda conn: under_test.store.log.after(conn, "Ship", 0, 10)
    )
    assert reached == 3
    assert [(c.revision, c.type) for c in changes] == [
        (1, common_pb2.CHANGE_TYPE_CREATED),
        (2, common_pb2.CHANGE_TYPE_CREATED),
        (3, common_pb2.CHANGE_TYPE_UPDATED),
    ]
    assert changes[2].after["status"] == "Ready"
    assert changes[2].before is not None
    assert changes[2].before["status"] == "Created"


async def test_a_transaction_that_fails_leaves_nothing(under_test: StoreUnderTest) -> None:
    def work(conn: Any) -> None:
        under_test.store.insert(conn, SHIPS, ship(1), now=START)
        raise ServiceError(errors_pb2.ERROR_REASON_INVALID_REQUEST, "no")

    with pytest.raises(ServiceError, match="no"):
        await under_test.database.write(work)
    assert await numbers(under_test) == []
    assert await under_test.database.read(under_test.store.log.revision) == 0


async def test_requests_are_idempotent_for_a_day(under_test: StoreUnderTest) -> None:
    same = RequestKey.of("acme", "r1", model_pb2.ForeignModel(id="a"))
    other = RequestKey.of("acme", "r1", model_pb2.ForeignModel(id="b"))
    elsewhere = RequestKey.of("other", "r1", model_pb2.ForeignModel(id="b"))
    first = await insert(under_test, ship(1), same)
    again = await insert(under_test, ship(2), same, START + DAY / 2)
    assert first.created
    assert not again.created
    assert again.entity == ship(1)
    with pytest.raises(ServiceError) as caught:
        await insert(under_test, ship(3), other)
    assert caught.value.reason == errors_pb2.ERROR_REASON_REQUEST_ID_REUSED
    assert (await insert(under_test, ship(4), elsewhere)).created
    assert (await insert(under_test, ship(5), None)).created
    # After a day it is forgotten.
    later = START + DAY + timedelta(seconds=1)
    assert (await insert(under_test, ship(6), other, later)).created
    assert await numbers(under_test) == [1, 4, 5, 6]


async def test_a_repeat_returns_the_resource_as_it_is_now(under_test: StoreUnderTest) -> None:
    key = RequestKey.of("acme", "r1", model_pb2.ForeignModel())
    await insert(under_test, ship(1), key)
    await under_test.put(ship(1, status="Deleted"))
    assert (await insert(under_test, ship(2), key)).entity.status == "Deleted"


def test_request_keys_depend_on_every_part() -> None:
    a, b = model_pb2.ForeignModel(id="a"), model_pb2.ForeignModel(id="b")
    assert RequestKey.of("acme", "", a) is None
    assert RequestKey.of("acme", "r", a, b) == RequestKey.of("acme", "r", a, b)
    assert RequestKey.of("acme", "r", a, b) != RequestKey.of("acme", "r", b, a)
    with pytest.raises(ServiceError):
        RequestKey.of("acme", "r" * 129, a)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (ResourceFilter(), [1, 2, 3, 4]),
        (ResourceFilter(id=ship(2).id), [2]),
        (ResourceFilter(account="other"), [3]),
        (ResourceFilter(status="Ready"), [2, 3]),
        (ResourceFilter(reason="Late"), [4]),
        (ResourceFilter(name="nostromo"), [3]),
        (ResourceFilter(model="m1"), [2, 3]),
        (ResourceFilter(model_name="hal"), [2]),
        (ResourceFilter(labels={"deck": "1"}), [1, 2]),
        (ResourceFilter(labels={"deck": "1", "wing": "a"}), [2]),
        (ResourceFilter(labels={"deck": "1"}, status="Ready"), [2]),
        (ResourceFilter(query='{"status": ["Created", "Error"]}'), [1, 4]),
        (ResourceFilter(query='{"reason": null}'), [1, 2, 3]),
        (ResourceFilter(query='{"reason": [null, "Late"]}'), [1, 2, 3, 4]),
        (ResourceFilter(query='{"name": [null]}'), [4]),
        (ResourceFilter(query='{"status": []}'), []),
        (ResourceFilter(query='[{"status": "Ready"}, {"model.id": "m1"}]'), [2, 3]),
        (ResourceFilter(query='{"crew.name": "Dave"}'), [1]),
        (ResourceFilter(query='{"labels.deck": ["1", "2"]}'), [1, 2, 3]),
    ],
)
async def test_filters_in_sql_and_in_memory_agree(
    under_test: StoreUnderTest, given: ResourceFilter, expected: list[int]
) -> None:
    ships = [
        ship(1, labels={"deck": "1"}, crew=[{"name": "Dave"}]),
        ship(
            2, status="Ready", labels={"deck": "1", "wing": "a"}, model={"id": "m1", "name": "hal"}
        ),
        ship(
            3,
            account="other",
            status="Ready",
            name="nostromo",
            labels={"deck": "2"},
            model={"id": "m1", "name": "mother"},
        ),
        ship(4, status="Error", reason="Late", name=None),
    ]
    await under_test.add(*ships)
    assert await numbers(under_test, given=given) == expected
    # The same by an update instead of an insert.
    for each in ships:
        await under_test.put(each.model_copy(update={"status": "Other", "labels": {}}))
        await under_test.put(each)
    assert await numbers(under_test, given=given) == expected
    assert await numbers(under_test, given=given, size=1) == expected


async def test_scopes(under_test: StoreUnderTest) -> None:
    await under_test.add(ship(1), ship(2, account="other"), ship(3, account="third"))
    assert await numbers(under_test, scope=Scope()) == []
    scope = Scope(accounts=frozenset({"acme"}), entities=frozenset({ship(3).id}))
    assert await numbers(under_test, scope=scope) == [1, 3]
    assert await numbers(under_test, scope=scope, given=ResourceFilter(account="other")) == []


@pytest.mark.parametrize(
    ("order_by", "expected"),
    [
        ("id", [1, 2, 3, 4, 5]),
        ("creationTime", [5, 1, 2, 3, 4]),
        ("name", [4, 2, 5, 1, 3]),
        ("status", [3, 1, 2, 4, 5]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
async def test_orders(
    under_test: StoreUnderTest, order_by: str, expected: list[int], size: int
) -> None:
    await under_test.add(
        ship(1, name="c"),
        ship(2, name="b"),
        ship(3, name="d", status="A"),
        ship(4, name=None),
        ship(5, name="b", creationTime=START),
    )
    assert await numbers(under_test, size=size, order_by=order_by) == expected
    backwards = await numbers(under_test, size=size, order_by=order_by, descending=True)
    assert backwards == expected[::-1]


async def test_pages_stay_right_while_resources_come_and_go(under_test: StoreUnderTest) -> None:
    await under_test.add(*(ship(n) for n in range(10, 20)))

    async def page(token: str) -> Any:
        return await under_test.database.read(
            lambda conn: under_test.store.list_page(
                conn, SHIPS, ResourceFilter(), PageQuery(4, token), ALL
            )
        )

    first = await page("")
    await under_test.add(ship(1), ship(12_000), ship(14, id="between"))
    await under_test.put(ship(15, status="Deleted"))
    second = await page(first.next_token)
    third = await page(second.next_token)
    found = [item.id for got in (first, second, third) for item in got.items]
    expected = [ship(n).id for n in range(10, 20)]
    # What was there all the time comes once, in its order; what came behind the position too.
    assert found[:5] == expected[:5]
    assert [each for each in found if each in expected] == expected
    assert ship(1).id not in found
    assert {first.revision, second.revision, third.revision} == {10}


async def test_a_page_token_of_another_filter_is_refused(under_test: StoreUnderTest) -> None:
    await under_test.add(ship(1), ship(2))

    def listed(given: ResourceFilter, token: str) -> Any:
        return under_test.database.read(
            lambda conn: under_test.store.list_page(conn, SHIPS, given, PageQuery(1, token), ALL)
        )

    token = (await listed(ResourceFilter(), "")).next_token
    assert token
    with pytest.raises(ServiceError) as caught:
        await listed(ResourceFilter(status="Created"), token)
    assert caught.value.reason == errors_pb2.ERROR_REASON_INVALID_PAGE_TOKEN


async def test_a_selective_query_reads_through_many_rows(under_test: StoreUnderTest) -> None:
    def fill(conn: Any) -> None:
        for number in range(1, 1203):
            crew = [{"name": "Dave"}] if number % 300 == 0 else []
            under_test.store.insert(conn, SHIPS, ship(number, crew=crew), now=START)

    await under_test.database.write(fill)
    given = ResourceFilter(query=json.dumps({"crew.name": "Dave"}))
    for size in (1, 3, 4, 5):
        assert await numbers(under_test, given=given, size=size) == [300, 600, 900, 1200]
    assert len(await numbers(under_test, size=1000)) == 1202

    every = await under_test.database.read(
        lambda conn: [int(s.id, 16) for s in under_test.store.every(conn, SHIPS)]
    )
    assert every == list(range(1, 1203))


async def test_a_list_begins_after_a_position(under_test: StoreUnderTest) -> None:
    await under_test.add(*(ship(n) for n in range(1, 8)))
    third = ship(3)
    assert await numbers(under_test, order_by="id", after=(third.id, third.id)) == [4, 5, 6, 7]
    before = {"order_by": "id", "after": (third.id, third.id), "descending": True}
    assert await numbers(under_test, size=1, **before) == [2, 1]


async def test_a_page_ends_before_it_grows_too_large(under_test: StoreUnderTest) -> None:
    await under_test.add(*(ship(n, reason="x" * (3 << 20)) for n in range(1, 6)))
    first = await under_test.database.read(
        lambda conn: under_test.store.list_page(conn, SHIPS, ResourceFilter(), PageQuery(), ALL)
    )
    assert len(first.items) == 2
    assert await numbers(under_test) == [1, 2, 3, 4, 5]


async def test_what_is_deleted_stays_for_a_week(under_test: StoreUnderTest) -> None:
    gone = ship(1, status="Deleted", labels={"a": "1"})
    await under_test.add(ship(1, labels={"a": "1"}), ship(2))
    await under_test.put(gone, now=START)
    changes, _ = await under_test.database.read(
        lambda conn: under_test.store.log.after(conn, "Ship", 2, 10)
    )
    assert [c.type for c in changes] == [common_pb2.CHANGE_TYPE_DELETED]
    # A later edit of it is an update, and does not make it stay longer.
    await under_test.put(gone.model_copy(update={"reason": "x"}), now=START + 6 * DAY)

    def maintain(days: float) -> Any:
        return under_test.database.write(
            lambda conn: under_test.store.maintain(conn, now=START + days * DAY)
        )

    await maintain(6.9)
    assert await numbers(under_test) == [1, 2]
    await maintain(7.1)
    assert await numbers(under_test) == [2]
    assert await numbers(under_test, given=ResourceFilter(labels={"a": "1"})) == []


async def test_compaction_by_number_and_age(under_test: StoreUnderTest) -> None:
    for number in range(1, 6):
        await under_test.add(ship(number), now=START + number * timedelta(hours=1))
    now = START + timedelta(hours=6)

    def compact(keep: int, hours: float) -> Any:
        return under_test.database.write(
            lambda conn: under_test.store.log.compact(
                conn, now, keep=keep, age=timedelta(hours=hours)
            )
        )

    def after(revision: int) -> Any:
        return under_test.database.read(
            lambda conn: under_test.store.log.after(conn, "Ship", revision, 10)
        )

    assert await compact(100, 100) == 0
    assert await compact(4, 100) == 1
    assert await compact(100, 3.5) == 2
    assert await compact(100, 100) == 2
    changes, reached = await after(2)
    assert [c.revision for c in changes] == [3, 4, 5]
    assert reached == 5
    for revision in (0, 1, 6):
        with pytest.raises(ServiceError) as caught:
            await after(revision)
        assert caught.value.reason == errors_pb2.ERROR_REASON_REVISION_COMPACTED
    assert await numbers(under_test) == [1, 2, 3, 4, 5]


async def test_the_log_says_up_to_where_it_was_read(under_test: StoreUnderTest) -> None:
    await under_test.add(ship(1), ship(2), ship(3))
    await under_test.database.write(
        lambda conn: under_test.store.insert(
            conn, VOYAGES, Voyage(id="v", inferenceService={"id": "s", "name": "n"}), now=START
        )
    )

    def after(kind: str | None, revision: int, limit: int) -> Any:
        return under_test.database.read(
            lambda conn: under_test.store.log.after(conn, kind, revision, limit)
        )

    changes, reached = await after("Ship", 0, 2)
    assert ([c.revision for c in changes], reached) == ([1, 2], 2)
    changes, reached = await after("Ship", 2, 2)
    assert ([c.revision for c in changes], reached) == ([3], 4)
    changes, reached = await after(None, 0, 10)
    assert ([c.kind for c in changes], reached) == (["Ship"] * 3 + ["Voyage"], 4)


async def test_modify_reads_and_writes_as_one_step(under_test: StoreUnderTest) -> None:
    await under_test.add(ship(1))
    changed = await under_test.feed.write(
        lambda conn: under_test.store.modify(
            conn, SHIPS, ship(1).id, lambda s: s.model_copy(update={"status": "Ready"}), now=START
        )
    )
    assert changed.status == "Ready"
    assert await numbers(under_test, given=ResourceFilter(status="Ready")) == [1]
