"""Databases under concurrent writers, a full disk, damage, and a newer schema."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import sys
import threading

import pytest
import sqlalchemy as sa

from podbay.v1 import errors_pb2
from podbay_kit.errors import ServiceError
from podbay_kit.storage import Database, DatabaseUnusableError, migrate, sqlite_url

_ENV = """
from alembic import context
context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
"""
_REVISION = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = {revision!r}, {down!r}
def upgrade():
    op.create_table({table!r}, sa.Column("n", sa.Integer, nullable=False))
def downgrade():
    raise RuntimeError("there is no way back")
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with migrations, importable for one test."""
    root = tmp_path / "code"
    scripts = root / "kit_test_package" / "migrations" / "versions"
    scripts.mkdir(parents=True)
    for folder in (root / "kit_test_package", scripts.parent):
        (folder / "__init__.py").touch()
    (scripts.parent / "env.py").write_text(_ENV)
    (scripts / "0001_first.py").write_text(
        _REVISION.format(revision="0001", down=None, table="counter")
    )
    monkeypatch.syspath_prepend(str(root))
    yield scripts
    for name in [name for name in sys.modules if name.startswith("kit_test_package")]:
        del sys.modules[name]


@pytest.fixture
async def database(database_url, package):
    migrate(database_url, "kit_test_package")
    database = Database(database_url)
    await database.write(lambda c: c.execute(sa.text("insert into counter values (0)")))
    yield database
    await database.close()


async def test_two_databases_that_read_then_write_lose_no_update(database_url, database):
    other = Database(database_url)

    def increment(connection):
        n = connection.execute(sa.text("select n from counter")).scalar_one()
        connection.execute(sa.text("update counter set n = :n"), {"n": n + 1})

    await asyncio.gather(*(d.write(increment) for _ in range(100) for d in (database, other)))
    total = await database.read(lambda c: c.execute(sa.text("select n from counter")).scalar_one())
    assert total == 200
    await other.close()


async def test_a_failing_transaction_leaves_nothing(database):
    def half(connection):
        connection.execute(sa.text("update counter set n = 7"))
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(half)
    total = await database.read(lambda c: c.execute(sa.text("select n from counter")).scalar_one())
    assert total == 0


async def test_a_cancelled_caller_leaves_a_whole_transaction(database):
    async def write():
        await database.write(lambda c: c.execute(sa.text("update counter set n = n + 1")))

    task = asyncio.create_task(write())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # The writer is one thread: what it was given before is done before this.
    await database.write(lambda c: c.execute(sa.text("update counter set n = n + 10")))
    total = await database.read(lambda c: c.execute(sa.text("select n from counter")).scalar_one())
    assert total in {10, 11}


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize(
    ("error", "is_logged"),
    [
        (ServiceError(errors_pb2.ERROR_REASON_MODEL_NOT_FOUND, "There is none."), False),
        (KeyError("a defect"), True),
    ],
)
async def test_what_a_cancelled_caller_is_not_told_is_logged_where_it_is_a_defect(
    database, caplog, error, is_logged
):
    begun, may_end = threading.Event(), threading.Event()

    def fail(_connection):
        begun.set()
        may_end.wait()
        raise error

    task = asyncio.create_task(database.write(fail))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    may_end.set()
    # The writer is one thread: the transaction has ended when this has, and its end was seen.
    await database.write(lambda _: None)
    assert ("an abandoned transaction failed" in caplog.text) is is_logged


@pytest.mark.parametrize("backend", ["sqlite"])
async def test_a_full_database_is_explained(database):
    def fill(connection):
        connection.exec_driver_sql("pragma max_page_count = 20")
        connection.exec_driver_sql("create table blobs (b blob)")
        connection.exec_driver_sql("insert into blobs values (zeroblob(1000000))")

    with pytest.raises(ServiceError) as caught:
        await database.write(fill)
    assert caught.value.reason == errors_pb2.ERROR_REASON_STORE_UNAVAILABLE
    assert "make room" in caught.value.message
    assert caught.value.retry_after is not None


def test_files_are_private(tmp_path):
    path = tmp_path / "new" / "a.sqlite3"
    old = os.umask(0)
    try:
        sqlite_url(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_migrations_go_up_keep_data_and_refuse_a_newer_schema(
    database_url, database, package
):
    second = package / "0002_second.py"
    second.write_text(_REVISION.format(revision="0002", down="0001", table="more"))
    migrate(database_url, "kit_test_package")
    migrate(database_url, "kit_test_package")
    both = "select n, (select count(*) from more) from counter"
    found = await database.read(lambda c: c.execute(sa.text(both)).all())
    assert [tuple(row) for row in found] == [(0, 0)]
    second.unlink()
    with pytest.raises(DatabaseUnusableError, match="schema 0002.*newer version"):
        migrate(database_url, "kit_test_package")


async def test_tables_of_something_else_are_left_alone(database_url, database, package):
    await database.write(lambda c: c.execute(sa.text("drop table alembic_version")))
    with pytest.raises(DatabaseUnusableError, match="tables of something else, as 'counter'"):
        migrate(database_url, "kit_test_package")
    found = await database.read(lambda c: c.execute(sa.text("select n from counter")).all())
    assert [tuple(row) for row in found] == [(0,)]


@pytest.mark.parametrize("damage", ["garbage", "overwritten"])
def test_a_damaged_file_is_found_and_left_alone(tmp_path, package, damage):
    path = tmp_path / "a.sqlite3"
    url = sqlite_url(path)
    if damage == "garbage":
        path.write_bytes(b"this is no database at all" * 1000)
    else:
        migrate(url, "kit_test_package")
        with sqlite3.connect(path) as connection:
            connection.executemany("insert into counter values (?)", [(n,) for n in range(20_000)])
        connection.close()
        content = bytearray(path.read_bytes())
        content[8192:16384] = b"\xff" * 8192
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(DatabaseUnusableError, match="damaged"):
        migrate(url, "kit_test_package")
    assert path.read_bytes() == before
