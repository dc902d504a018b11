"""Accounts, tokens and files of models, over every database that they can be kept in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from podbay.schema import platform
from podbay.v1 import errors_pb2
from podbay_kit.auth import Scope
from podbay_kit.blob_files import Digests
from podbay_kit.errors import ServiceError
from podbay_kit.resources import PageQuery
from podbay_kit.storage import Database, migrate
from podbay_registry.account_store import Installation
from podbay_registry.file_store import FileStore
from podbay_registry.grants import ADMIN_GRANTS
from podbay_registry.kinds import MODELS
from podbay_registry.store import RegistryStore
from podbay_registry.tokens import ApiToken, new_secret

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ALL = Scope(everything=True)
FILES = FileStore()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[RegistryStore]:
    migrate(database_url, "podbay_registry")
    database = Database(database_url)
    yield RegistryStore(database)
    await database.close()


def token(number: int, account: str = "acme", **fields: Any) -> ApiToken:
    values = {"name": f"n{number % 3}", "grants": ADMIN_GRANTS, **fields}
    return ApiToken(
        id=f"pbt_{number:016x}",
        account=account,
        creation_time=NOW + timedelta(seconds=number // 2),
        **values,
    )


def blob(number: int, size: int = 10) -> Digests:
    return Digests(size, f"{number:064x}", "1B2M2Y8AsgTpgAmY7PhCfg==")


def model(number: int, status: str = "Ready") -> platform.Model:
    return platform.Model.model_validate(
        {
            "id": f"{number:032x}",
            "account": "acme",
            "status": status,
            "creationTime": NOW,
            "name": "hal",
            "artifact": {"kind": "Mock"},
            "source": {"kind": "Mock"},
            "resources": {},
        }
    )


async def refused(call: Any) -> errors_pb2.ErrorReason.ValueType:
    with pytest.raises(ServiceError) as caught:
        await call
    return caught.value.reason


async def test_accounts(store: RegistryStore) -> None:
    write, read = store.database.write, store.database.read
    names = ["b", "Z", "a-1", "a", "_"]
    for number, name in enumerate(names):
        await write(lambda c, n=name, t=number: store.accounts.add(c, n, NOW + t * DAY))
    taken = write(lambda c: store.accounts.add(c, "a", NOW))
    assert await refused(taken) == errors_pb2.ERROR_REASON_ALREADY_EXISTS
    await read(lambda c: store.accounts.check(c, "a"))
    unknown = read(lambda c: store.accounts.check(c, "A"))
    assert await refused(unknown) == errors_pb2.ERROR_REASON_ACCOUNT_NOT_FOUND
    assert await _all_accounts(store, "id", ALL) == sorted(names)
    assert await _all_accounts(store, "creationTime", ALL) == names
    scope = Scope(accounts=frozenset({"a", "none"}), entities=frozenset({"Z"}))
    assert await _all_accounts(store, "id", scope) == ["Z", "a"]


async def _all_accounts(store: RegistryStore, order: str, scope: Scope) -> list[str]:
    found: list[str] = []
    page = PageQuery(2, order_by=order)
    while True:
        accounts, rows = await store.database.read(
            lambda c, page=page: store.accounts.list_page(c, page, scope, revision=7)
        )
        assert rows.revision == 7
        found += [account.id for account in accounts]
        if not rows.next_token:
            return found
        page = PageQuery(2, rows.next_token, order_by=order)


async def test_the_installation(store: RegistryStore) -> None:
    write, read = store.database.write, store.database.read
    assert await read(store.accounts.installation) is None
    made = Installation("i" * 32, "pbt_1")
    await write(lambda c: store.accounts.install(c, made))
    assert await read(store.accounts.installation) == made
    with pytest.raises(sa.exc.IntegrityError):
        await write(lambda c: store.accounts.install(c, made))
    await write(lambda c: store.accounts.set_admin_token(c, "pbt_2"))
    assert await read(store.accounts.installation) == Installation("i" * 32, "pbt_2")


async def test_tokens(store: RegistryStore) -> None:
    write, read = store.database.write, store.database.read
    for name in ("acme", "other"):
        await write(lambda c, n=name: store.accounts.add(c, n, NOW))
    secret = new_secret()
    given = [
        token(1, expires=NOW + DAY),
        token(2, "other"),
        token(3, name="é€😀"),
        token(4, revoked=NOW),
        token(5),
    ]
    for each in given:
        await write(lambda c, t=each: store.tokens.add(c, t, secret.digest))
    for each in given:
        assert await read(lambda c, t=each: store.tokens.find(c, t.id)) == (each, secret.digest)
    with pytest.raises(sa.exc.IntegrityError):
        await write(lambda c: store.tokens.add(c, token(9, "nobody"), secret.digest))
    missing = read(lambda c: store.tokens.get(c, "pbt_none"))
    assert await refused(missing) == errors_pb2.ERROR_REASON_API_TOKEN_NOT_FOUND
    ended = await write(lambda c: store.tokens.revoke(c, given[0].id, NOW + DAY))
    assert ended.revoked == NOW + DAY
    # The first end counts.
    again = await write(lambda c: store.tokens.revoke(c, given[3].id, NOW + DAY))
    assert again.revoked == NOW
    key: dict[str, Callable[[ApiToken], Any]] = {
        "id": lambda t: t.id,
        "name": lambda t: (t.name.encode(), t.id),
        "creationTime": lambda t: (t.creation_time, t.id),
    }
    for order, by in key.items():
        for descending in (False, True):
            expected = [t.id for t in sorted(given, key=by, reverse=descending)]
            assert await _all_tokens(store, order, descending=descending) == expected
    assert await _all_tokens(store, "id", account="other") == [given[1].id]
    scope = Scope(accounts=frozenset({"other"}), entities=frozenset({given[4].id}))
    assert await _all_tokens(store, "id", scope=scope) == [given[1].id, given[4].id]


async def _all_tokens(
    store: RegistryStore,
    order: str,
    *,
    descending: bool = False,
    account: str | None = None,
    scope: Scope = ALL,
) -> list[str]:
    found: list[str] = []
    after = ""
    while True:
        page = PageQuery(2, after, order_by=order, descending=descending)
        tokens, rows = await store.database.read(
            lambda c, page=page: store.tokens.list_page(c, page, scope, account=account, revision=1)
        )
        found += [each.id for each in tokens]
        after = rows.next_token
        if not after:
            return found


async def test_files(store: RegistryStore) -> None:
    write, read = store.database.write, store.database.read
    huge = 5 << 40
    for number in (1, 2, 3):
        digests = blob(number, huge if number == 3 else 10)
        await write(lambda c, d=digests, n=number: FILES.put(c, d, "acme", NOW + n * DAY))
    await write(lambda c: FILES.put(c, blob(1), "other", NOW))
    assert await read(FILES.total) == huge + 20
    assert await read(FILES.every) == {
        blob(1).sha256: 10,
        blob(2).sha256: 10,
        blob(3).sha256: huge,
    }
    shown = [("acme", True), ("other", True), ("nobody", False)]
    for account, expected in shown:
        found = await read(lambda c, a=account: FILES.shown_by(c, blob(1).sha256, a))
        assert found is expected
    paths = ["b/ü.bin", "B", "a b", "a.bin"]
    for number, path in enumerate(paths):
        digest = blob(1 + number % 2).sha256
        await write(lambda c, p=path, d=digest: FILES.link(c, "m1", p, d, NOW + 9 * DAY))
    listed = await read(lambda c: FILES.files(c, "m1"))
    assert [file.path for file in listed] == sorted(paths)
    after = await read(lambda c: FILES.files(c, "m1", after="a b", limit=1))
    assert [file.path for file in after] == ["a.bin"]
    # A content that a model refers to stays; what nobody refers to goes, with who has shown it.
    with pytest.raises(sa.exc.IntegrityError):
        await write(lambda c: FILES.forget(c, [blob(1).sha256]))
    assert await read(FILES.unused) == [(blob(3).sha256, huge)]
    assert await read(lambda c: FILES.unused(c, before=NOW + 3 * DAY)) == []
    await write(lambda c: FILES.forget(c, [blob(3).sha256]))
    assert await read(lambda c: FILES.shown_by(c, blob(3).sha256, "acme")) is False
    await write(lambda c: FILES.damage(c, blob(1).sha256, "f" * 64))
    stored = await read(lambda c: FILES.file(c, "m1", "a b"))
    assert stored is not None
    assert stored.blob.damaged == "f" * 64
    await write(lambda c: FILES.put(c, blob(1), "acme", NOW))
    mended = await read(lambda c: FILES.blob(c, blob(1).sha256))
    assert mended is not None
    assert mended.damaged is None


async def test_files_of_models_that_are_gone_are_released(store: RegistryStore) -> None:
    write, read = store.database.write, store.database.read
    await write(lambda c: FILES.put(c, blob(1), "acme", NOW))
    for number, status in ((1, "Ready"), (2, "Deleted")):
        made = model(number, status)
        await write(lambda c, m=made: store.resources.insert(c, MODELS, m, now=NOW))
    for each in (model(1).id, model(2).id, model(3).id):
        await write(lambda c, m=each: FILES.link(c, m, "a", blob(1).sha256, NOW))
    await write(FILES.release)
    for each, there in ((model(1).id, 1), (model(2).id, 0), (model(3).id, 0)):
        assert len(await read(lambda c, m=each: FILES.files(c, m))) == there
    assert await read(store.model_ids) == {model(1).id, model(2).id}
