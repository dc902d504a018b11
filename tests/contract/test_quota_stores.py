"""Quotas in the stores of both services, over every database that they can be kept in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from podbay.schema import platform
from podbay.v1 import errors_pb2
from podbay_kit.blob_files import Digests
from podbay_kit.errors import ServiceError
from podbay_kit.quotas import Quota
from podbay_kit.storage import Connection, Database, migrate
from podbay_registry.account_room import FETCHING, check_room, room_used
from podbay_registry.file_store import FileStore
from podbay_registry.kinds import MODELS
from podbay_registry.store import RegistryStore
from podbay_session_manager.quota_store import QuotaStore

NOW = datetime(2030, 1, 1, tzinfo=UTC)
FILES = FileStore()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[RegistryStore]:
    migrate(database_url, "podbay_registry")
    database = Database(database_url)
    made = RegistryStore(database, default_quota=Quota(sessions=7))
    for account in ("acme", "beta"):
        await database.write(lambda conn, account=account: made.accounts.add(conn, account, NOW))
    yield made
    await database.close()


def model(name: str, account: str = "acme", status: str = "Ready") -> platform.Model:
    return platform.Model.model_validate(
        {
            "id": name,
            "account": account,
            "status": status,
            "creationTime": NOW,
            "name": "hal",
            "artifact": {"kind": "Mock"},
            "source": {"kind": "Mock"},
            "resources": {},
        }
    )


def blob(number: int, size: int) -> Digests:
    return Digests(size, f"{number:064x}", "1B2M2Y8AsgTpgAmY7PhCfg==")


async def test_quotas_are_read_on_from_a_revision(store: RegistryStore) -> None:
    database, quotas = store.database, store.quotas
    none = await database.read(lambda conn: quotas.get(conn, "acme"))
    assert (none.quota, none.revision) == (Quota(), 0)
    first = await database.write(
        lambda conn: quotas.put(conn, "acme", Quota(sessions=1, gpus={"t4": 2}))
    )
    assert await database.read(lambda conn: quotas.get(conn, "acme")) == first
    second = await database.write(lambda conn: quotas.put(conn, "beta", Quota(replicas=0)))
    third = await database.write(lambda conn: quotas.put(conn, "acme", Quota()))
    assert first.revision < second.revision < third.revision
    found, revision = await database.read(lambda conn: quotas.after(conn, 0))
    assert found == [second, third]
    assert revision == third.revision
    found, _ = await database.read(lambda conn: quotas.after(conn, second.revision))
    assert found == [third]


async def test_new_accounts_have_the_default_in_the_same_transaction(store: RegistryStore) -> None:
    def make_and_fail(conn: Connection) -> None:
        store.add_account(conn, "never", NOW)
        raise LookupError

    with pytest.raises(LookupError):
        await store.database.write(make_and_fail)
    await store.database.write(lambda conn: store.add_account(conn, "new", NOW))
    found, _ = await store.database.read(lambda conn: store.quotas.after(conn, 0))
    assert [(each.account, each.quota) for each in found] == [("new", Quota(sessions=7))]


async def test_what_the_models_of_an_account_have(store: RegistryStore) -> None:
    def fill(conn: Connection) -> None:
        for made in (model("a"), model("b"), model("c", status="Deleted"), model("x", "beta")):
            store.resources.insert(conn, MODELS, made, now=NOW)
        for number, size in ((1, 100), (2, 20), (3, 5000), (4, 7)):
            FILES.put(conn, blob(number, size), "acme", NOW)
        for name, path, number in (
            *(("a", "p", 1), ("a", "q", 2), ("b", "p", 1), ("c", "p", 3), ("x", "p", 4)),
        ):
            FILES.link(conn, name, path, blob(number, 0).sha256, NOW)

    await store.database.write(fill)
    coming = {
        f"a.{blob(9, 0).sha256}": 50,
        f"b.{blob(9, 0).sha256}": 60,  # the same content, to two models
        f"a.{blob(1, 0).sha256}": 100,  # which is there
        f"c.{blob(8, 0).sha256}": 900,  # of a deleted model
        f"{FETCHING}b": 1000,
        f"{FETCHING}x": 3,
    }
    database = store.database
    assert await database.read(lambda conn: room_used(store, conn, "acme", {})) == 120
    assert await database.read(lambda conn: room_used(store, conn, "acme", coming)) == 1180
    assert await database.read(lambda conn: room_used(store, conn, "beta", coming)) == 10
    await database.write(lambda conn: store.quotas.put(conn, "acme", Quota(model_bytes=200)))

    async def fits(wanted: dict[str, int], coming: dict[str, int]) -> bool:
        try:
            await database.read(lambda conn: check_room(store, conn, "acme", wanted, coming))
        except ServiceError as error:
            assert error.reason == errors_pb2.ERROR_REASON_ACCOUNT_STORAGE_FULL
            return False
        return True

    assert await fits({blob(5, 0).sha256: 80}, {})
    assert not await fits({blob(5, 0).sha256: 81}, {})
    assert not await fits({blob(5, 0).sha256: 31}, {f"a.{blob(9, 0).sha256}": 50})
    assert await fits({blob(1, 0).sha256: 100}, {f"{FETCHING}b": 1000}), "it needs no room"


async def test_what_the_session_manager_was_told(database_url: str) -> None:
    migrate(database_url, "podbay_session_manager")
    database = Database(database_url)
    quotas = QuotaStore(database)
    try:
        assert await quotas.load() == {}
        one, two = (Quota(sessions=1), 4), (Quota(gpus={"t4": 1}), 9)
        await quotas.put({"acme": one, "beta": one}, replace=True)
        await quotas.put({"acme": two}, replace=False)
        assert await quotas.load() == {"acme": two, "beta": one}
        await quotas.put({"gamma": one}, replace=True)
        assert await quotas.load() == {"gamma": one}
        await quotas.put({}, replace=True)
        assert await quotas.load() == {}
    finally:
        await database.close()
