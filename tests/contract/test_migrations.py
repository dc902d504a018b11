"""Every earlier schema of both services comes up with its data, over both databases."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from podbay_kit.storage import DatabaseUnusableError, migrate
from podbay_kit.storage_engines import WRITING, make_engine
from podbay_kit.storage_migrations import head_of, scripts_of
from podbay_kit.storage_urls import is_postgresql
from podbay_registry.tables import METADATA as REGISTRY
from podbay_session_manager.tables import METADATA as SESSION_MANAGER

PACKAGES = {"podbay_registry": REGISTRY, "podbay_session_manager": SESSION_MANAGER}


def earlier(package: str) -> list[str]:
    """Return the schemas of a package, the oldest first."""
    return [script.revision for script in scripts_of(package).walk_revisions()][::-1]


CASES = [(package, revision) for package in PACKAGES for revision in earlier(package)]


@contextmanager
def transaction(url: str, *, writing: bool = True) -> Iterator[sa.Connection]:
    engine = make_engine(url)
    try:
        with engine.connect() as plain:
            connection = plain.execution_options(**{WRITING: writing})
            with connection.begin():
                yield connection
    finally:
        engine.dispose()


def some(column: sa.Column[Any], number: int) -> Any:
    """Return a value for a column that is not null, another one for each number."""
    kind = column.type
    if isinstance(kind, sa.Boolean):
        return number % 2 == 0
    if isinstance(kind, sa.Integer):
        return number
    if isinstance(kind, sa.Float):
        # Of a size at which single precision would lose it.
        return 1_700_000_000.123456 + number
    if isinstance(kind, sa.LargeBinary):
        return bytes(range(32))
    text = json.dumps({"of": column.name, "nr": number}, ensure_ascii=False) + "é€😀"
    length = getattr(kind, "length", None)
    return text if length is None else f"{number}{column.name}"[:length]


def fill(connection: sa.Connection) -> dict[str, list[dict[str, Any]]]:
    """Put two rows into every table that there is, parents first, and return them."""
    metadata = sa.MetaData()
    metadata.reflect(connection)
    rows: dict[str, list[dict[str, Any]]] = {}
    for table in metadata.sorted_tables:
        if table.name == "alembic_version":
            continue
        rows[table.name] = []
        for number in (1, 2):
            row = {column.name: some(column, number) for column in table.columns}
            for key in table.foreign_keys:
                parent = rows[key.column.table.name][number - 1]
                row[key.parent.name] = parent[key.column.name]
            connection.execute(sa.insert(table).values(**row))
            rows[table.name].append(row)
    return rows


def content(connection: sa.Connection, table: sa.Table, names: list[str]) -> list[Any]:
    columns = [table.c[name] for name in names]
    return sorted((tuple(row) for row in connection.execute(sa.select(*columns))), key=str)


@pytest.mark.parametrize(("package", "revision"), CASES)
def test_every_earlier_schema_comes_up_with_its_data(
    database_url: str, package: str, revision: str
) -> None:
    migrate(database_url, package, revision)
    with transaction(database_url) as connection:
        before = fill(connection)
    migrate(database_url, package)
    metadata = PACKAGES[package]
    with transaction(database_url) as connection:
        for name, rows in before.items():
            columns = list(rows[0])
            expected = sorted((tuple(row.values()) for row in rows), key=str)
            assert content(connection, metadata.tables[name], columns) == expected, name
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_schema_of_a_newer_program_is_refused_and_left_alone(
    database_url: str, package: str
) -> None:
    migrate(database_url, package)
    with transaction(database_url) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'of_tomorrow'"))
    with pytest.raises(DatabaseUnusableError, match=r"schema of_tomorrow.*newer version") as caught:
        migrate(database_url, package)
    assert "restore a backup" in str(caught.value)
    with transaction(database_url) as connection:
        found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        assert found == "of_tomorrow"


_MIGRATE = """
import sys
from podbay_kit.storage import migrate
sys.stdout.write("ready\\n")
sys.stdout.flush()
sys.stdin.readline()
migrate(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_processes_that_migrate_at_once_do_it_once(database_url: str, package: str) -> None:
    oldest = earlier(package)[0]
    # Two from nothing, and then two from an old schema.
    for begun in (None, oldest):
        if begun is not None:
            with transaction(database_url) as connection:
                metadata = sa.MetaData()
                metadata.reflect(connection)
                metadata.drop_all(connection)
            migrate(database_url, package, begun)
        running = [
            subprocess.Popen(
                [sys.executable, "-c", _MIGRATE, database_url, package],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        outcomes = [_let_go(process) for process in running]
        ended = [(process.communicate()[1], process.returncode) for process in outcomes]
        assert ended == [("", 0)] * 2
        with transaction(database_url) as connection:
            context = MigrationContext.configure(connection)
            assert context.get_current_revision() == head_of(package)
            assert compare_metadata(context, PACKAGES[package]) == []


def _let_go(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process


@pytest.mark.parametrize("package", PACKAGES)
def test_texts_sort_by_their_bytes(database_url: str, package: str) -> None:
    migrate(database_url, package)
    words = ["B", "a", "Z", "_", "é", "~", "ab", "A b", "A-c"]
    with transaction(database_url) as connection:
        resources = PACKAGES[package].tables["resources"]
        row = {column.name: some(column, 1) for column in resources.columns}
        for word in words:
            connection.execute(sa.insert(resources).values(**{**row, "id": word}))
        found = connection.execute(sa.select(resources.c.id).order_by(resources.c.id)).scalars()
        assert list(found) == sorted(words)
        if is_postgresql(database_url):
            others = sa.text(
                "SELECT table_name, column_name FROM information_schema.columns"
                " WHERE table_schema = current_schema() AND table_name <> 'alembic_version'"
                " AND data_type IN ('text', 'character varying') AND collation_name <> 'C'"
            )
            assert connection.execute(others).all() == []
