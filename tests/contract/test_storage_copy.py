"""Copies of databases: from either kind, in use, into either kind."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from podbay_kit.storage import Database, DatabaseUnusableError, migrate
from podbay_kit.storage_copy import Tables, load_database, read_copy, save_database
from podbay_kit.storage_urls import is_postgresql, postgresql_url
from podbay_registry.tables import METADATA as REGISTRY
from podbay_session_manager.tables import METADATA as SESSION_MANAGER
from tests.contract.test_migrations import earlier, fill, transaction
from tests.support.databases import BACKENDS
from tests.support.resource_store import SHIPS, opened_store, ship

REGISTRY_TABLES = Tables("podbay_registry", REGISTRY)
MANAGER_TABLES = Tables("podbay_session_manager", SESSION_MANAGER)


@pytest.fixture(params=BACKENDS)
def target_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a copy is loaded to: a database that is not there."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'target' / 'store.sqlite3'}"
    return postgresql_url(request.getfixturevalue("postgresql_database"), "target")


def content(url: str, tables: Tables) -> dict[str, list[Any]]:
    with transaction(url, writing=False) as connection:
        return {
            table.name: sorted(map(tuple, connection.execute(sa.select(table))), key=str)
            for table in tables.metadata.sorted_tables
        }


@pytest.mark.parametrize("tables", [REGISTRY_TABLES, MANAGER_TABLES], ids=lambda t: t.package)
def test_a_copy_holds_the_same_in_whatever_kind(
    database_url: str, target_url: str, tmp_path: Path, tables: Tables
) -> None:
    migrate(database_url, tables.package)
    with transaction(database_url) as connection:
        fill(connection)
    before = content(database_url, tables)
    assert all(len(rows) == 2 for rows in before.values())
    copy = tmp_path / "copy" / "a.sqlite3"
    assert save_database(database_url, tables, copy) == earlier(tables.package)[-1]
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    copy.chmod(0o400)
    saved = copy.read_bytes()
    load_database(copy, tables, target_url)
    assert content(target_url, tables) == before
    assert content(database_url, tables) == before
    assert copy.read_bytes() == saved
    # Where something is, nothing is put.
    with pytest.raises(DatabaseUnusableError, match="there already|not empty"):
        load_database(copy, tables, target_url)
    assert content(target_url, tables) == before


def test_a_copy_of_an_earlier_schema_comes_up(target_url: str, tmp_path: Path) -> None:
    source = f"sqlite:///{tmp_path / 'old.sqlite3'}"
    (tmp_path / "old.sqlite3").touch()
    oldest = earlier(MANAGER_TABLES.package)[0]
    migrate(source, MANAGER_TABLES.package, oldest)
    with transaction(source) as connection:
        rows = fill(connection)
    copy = tmp_path / "copy.sqlite3"
    assert save_database(source, MANAGER_TABLES, copy) == oldest
    load_database(copy, MANAGER_TABLES, target_url)
    nodes = content(target_url, MANAGER_TABLES)["nodes"]
    assert [row[0] for row in nodes] == [row["name"] for row in rows["nodes"]]
    # The copy itself is as it was.
    assert _version(copy) == oldest


def test_a_copy_of_a_newer_program_is_refused(target_url: str, tmp_path: Path) -> None:
    source = tmp_path / "new.sqlite3"
    source.touch()
    migrate(f"sqlite:///{source}", REGISTRY_TABLES.package)
    copy = tmp_path / "copy.sqlite3"
    save_database(f"sqlite:///{source}", REGISTRY_TABLES, copy)
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of_tomorrow'")
        connection.commit()
    with pytest.raises(DatabaseUnusableError, match="of_tomorrow.*newer version"):
        load_database(copy, REGISTRY_TABLES, target_url)
    if not is_postgresql(target_url):
        assert list((tmp_path / "target").iterdir()) == []


def _version(file: Path) -> str:
    return read_copy(
        file, lambda c: str(c.execute(sa.text("SELECT version_num FROM alembic_version")).scalar())
    )


@pytest.mark.needs_postgresql
def test_a_schema_that_is_not_this_programs_is_not_copied(
    postgresql_database: str, tmp_path: Path
) -> None:
    url = postgresql_url(postgresql_database, "session_manager")
    with pytest.raises(DatabaseUnusableError, match="holds nothing of Podbay"):
        save_database(url, MANAGER_TABLES, tmp_path / "a.sqlite3")
    oldest = earlier(MANAGER_TABLES.package)[0]
    migrate(url, MANAGER_TABLES.package, oldest)
    with pytest.raises(DatabaseUnusableError, match=f"has schema {oldest}.*Use the version"):
        save_database(url, MANAGER_TABLES, tmp_path / "b.sqlite3")


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "none.sqlite3"
    with pytest.raises(DatabaseUnusableError, match=r"no database .*none\.sqlite3"):
        save_database(f"sqlite:///{path}", REGISTRY_TABLES, tmp_path / "copy.sqlite3")
    assert list(tmp_path.iterdir()) == []


async def test_a_copy_under_writes_is_of_one_moment(database_url: str, tmp_path: Path) -> None:
    """Each write changes a resource, the change log and the counter: all or none is in a copy."""
    async with opened_store(database_url) as under_test:
        tables = Tables("podbay_registry", under_test.metadata)
        await under_test.database.write(_known_schema)
        await under_test.add(*(ship(n) for n in range(4)))
        going = True

        async def write(number: int) -> None:
            step = 0
            while going:
                step += 1
                await under_test.put(ship(number, labels={"step": str(step)}))

        writers = [asyncio.create_task(write(n)) for n in range(4)]
        try:
            for turn in range(3):
                copy = tmp_path / f"{turn}.sqlite3"
                await asyncio.to_thread(save_database, database_url, tables, copy)
                read_copy(copy, _check_whole)
        finally:
            going = False
            await asyncio.gather(*writers)


def _known_schema(connection: sa.Connection) -> None:
    connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
    version = earlier("podbay_registry")[-1]
    connection.execute(sa.text(f"INSERT INTO alembic_version VALUES ('{version}')"))


def _check_whole(connection: sa.Connection) -> None:
    counter = connection.execute(sa.text("SELECT revision FROM resource_counter")).scalar_one()
    changes = connection.execute(
        sa.text("SELECT count(*), max(revision) FROM resource_changes")
    ).one()
    assert tuple(changes) == (counter, counter)
    rows = connection.execute(sa.text("SELECT revision, document FROM resources")).all()
    last = connection.execute(
        sa.text("SELECT document FROM resource_changes WHERE revision = :r"), {"r": counter}
    ).scalar_one()
    assert len(rows) == 4
    assert max(row.revision for row in rows) == counter
    assert last in {row.document for row in rows}
    assert all(SHIPS.load(row.document) for row in rows)


async def test_a_restored_store_serves_on(
    database_url: str, target_url: str, tmp_path: Path
) -> None:
    """Revisions go on where the copy was: a watcher that was ahead is told to list again."""
    migrate(database_url, "podbay_registry")
    with transaction(database_url) as connection:
        fill(connection)
    copy = tmp_path / "copy.sqlite3"
    save_database(database_url, REGISTRY_TABLES, copy)
    load_database(copy, REGISTRY_TABLES, target_url)
    migrate(target_url, "podbay_registry")
    database = Database(target_url)
    try:
        await database.write(
            lambda c: c.execute(sa.text("UPDATE resource_counter SET revision = revision + 1"))
        )
    finally:
        await database.close()
