"""What the session manager keeps, over every database that it can be kept in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from podbay.schema import platform
from podbay.v1 import errors_pb2
from podbay_kit.errors import ServiceError
from podbay_kit.resources import RequestKey
from podbay_kit.storage import Database, migrate
from podbay_session_manager.key_store import KeyStore
from podbay_session_manager.machine import ReplicaPhase, SessionState
from podbay_session_manager.records import ReplicaRecord, ServiceSpec, Serving, SessionRecord
from podbay_session_manager.store import SessionStore
from podbay_session_manager.tokens import make_key

NOW = datetime(2030, 1, 1, tzinfo=UTC)
# With more digits than single precision has.
T = NOW.timestamp() + 0.123456


def session(name: str, **fields: object) -> SessionRecord:
    made = SessionRecord(
        id=name * 32,
        account="acme",
        service=ServiceSpec(kind="container", name="n", image="i"),
        serving=Serving(),
        driver="docker",
        desired=1,
        created_at=T,
    )
    return replace(made, **fields)  # type: ignore[arg-type] # fields of the record


def replica(name: str, of: SessionRecord) -> ReplicaRecord:
    return ReplicaRecord(
        id=name,
        session_id=of.id,
        index=0,
        attempt=1,
        driver="docker/n1",
        created_at=T,
        transition_at=T,
        phase=ReplicaPhase.READY,
    )


def entity(record: SessionRecord) -> platform.InferenceSession:
    return platform.InferenceSession.model_validate(
        {
            "id": record.id,
            "account": "acme",
            "status": "Created",
            "creationTime": NOW,
            "inferenceService": {
                "id": "5" * 32,
                "account": "acme",
                "name": "n",
                "interface": {"endpoint": "e", "outputSchema": {"arrowSchema": ""}},
            },
        }
    )


async def add(store: SessionStore, record: SessionRecord) -> None:
    await store.create(entity(record), record, now=NOW, request=None)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[SessionStore]:
    migrate(database_url, "podbay_session_manager")
    database = Database(database_url)
    yield SessionStore(database)
    await database.close()


async def test_live_and_ended_sessions_with_their_replicas(store: SessionStore) -> None:
    live, early, late = session("a"), session("b"), session("c")
    for each in (live, early, late):
        await add(store, each)
    replicas = [replica("r1", live), replica("r2", live), replica("r3", late)]
    await store.apply(replicas=replicas, now=NOW)
    ended = [
        replace(early, state=SessionState.ENDED, ended_at=T),
        replace(late, state=SessionState.ENDED, ended_at=T + 0.000001),
    ]
    await store.apply(sessions=ended, now=NOW)
    assert await store.load_live() == (
        {live.id: live},
        {live.id: {"r1": replicas[0], "r2": replicas[1]}},
    )
    assert await store.load_ended(0.0, 10) == ended
    assert await store.load_ended(T, 10) == ended[1:]
    assert await store.load_ended(0.0, 1) == ended[1:]
    assert await store.find_session(late.id) == (ended[1], {"r3": replicas[2]})
    assert await store.find_session("x" * 32) is None
    assert await store.replica_ids_since(T) == {"r1", "r2", "r3"}
    assert await store.replica_ids_since(T + 1) == {"r1", "r2"}
    moved = replace(replicas[0], phase=ReplicaPhase.UNREADY)
    await store.apply(replicas=[moved], forgotten=["r2"], now=NOW)
    assert (await store.load_live())[1] == {live.id: {"r1": moved}}


async def test_of_requests_that_come_at_once_one_makes_a_session(store: SessionStore) -> None:
    request = RequestKey("acme", "r1", "d" * 64)
    records = [session(name) for name in "abcd"]
    made = await asyncio.gather(
        *(store.create(entity(r), r, now=NOW, request=request) for r in records)
    )
    assert len({each.id for each, _ in made}) == 1
    assert [created for _, created in made].count(True) == 1
    assert await store.replay(request, NOW) == made[0][0]
    with pytest.raises(ServiceError) as caught:
        await store.replay(replace(request, digest="e" * 64), NOW)
    assert caught.value.reason == errors_pb2.ERROR_REASON_REQUEST_ID_REUSED


async def test_several_processes_have_one_id(store: SessionStore, database_url: str) -> None:
    others = [Database(database_url) for _ in range(3)]
    stores = [store, *(SessionStore(each) for each in others)]
    try:
        ids = await asyncio.gather(*(s.installation_id() for s in stores))
    finally:
        for each in others:
            await each.close()
    assert len(set(ids)) == 1


async def test_several_processes_have_one_first_key(store: SessionStore, database_url: str) -> None:
    others = [Database(database_url) for _ in range(3)]
    stores = [KeyStore(each) for each in (store.database, *others)]
    try:
        keys = await asyncio.gather(
            *(s.load_or_add(lambda: replace(make_key(T), activated_at=T)) for s in stores)
        )
    finally:
        for each in others:
            await each.close()
    assert all(each == keys[0] for each in keys)
    assert len(keys[0]) == 1


async def test_keys_that_sign(store: SessionStore) -> None:
    keys = KeyStore(store.database)
    first, second = (make_key(T + number) for number in range(2))
    for key in (first, second):
        await keys.add(key)
    with pytest.raises(sa.exc.IntegrityError):
        await keys.add(first)
    await keys.activate(first.kid, T + 0.000001)
    assert await keys.extend(first.kid, T + 5)
    # What is covered already stays covered.
    assert await keys.extend(first.kid, T + 4)
    assert not await keys.extend("none", T)
    expected = replace(first, activated_at=T + 0.000001, verifies_until=T + 5)
    assert await keys.load() == [second, expected]
    await keys.remove([first.kid, "none"])
    await keys.remove([])
    assert await keys.load() == [second]


async def test_what_was_deleted_long_ago_is_forgotten(store: SessionStore) -> None:
    gone, kept = session("a"), session("b")
    for each in (gone, kept):
        await add(store, each)
        await store.apply(replicas=[replica(f"r{each.id[0]}", each)], now=NOW)
        ended = replace(each, state=SessionState.ENDED, ended_at=T)
        await store.apply(sessions=[ended], now=NOW)
    await store.modify(gone.id, lambda s: s.model_copy(update={"status": "Deleted"}), NOW)
    await store.maintain(NOW + timedelta(days=6))
    assert await store.find_session(gone.id) is not None
    await store.maintain(NOW + timedelta(days=8))
    assert await store.find_session(gone.id) is None
    assert await store.find_session(kept.id) is not None
    assert await store.replica_ids_since(0.0) == {"rb"}
