"""Copies of databases while they are used: what a backup holds, whichever database it comes from.

The copy is a SQLite file of one moment. It can become a database of either kind again, so that a
backup is also the way from one kind to the other.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import sqlalchemy as sa

from podbay_kit.storage_damage import check_file, damaged, start_failure
from podbay_kit.storage_engines import PATIENT, WRITING, make_engine, schema_of
from podbay_kit.storage_errors import DatabaseUnusableError
from podbay_kit.storage_migrations import head_of, migrate, revision_of
from podbay_kit.storage_urls import shown, sqlite_path, sqlite_url

__all__ = ["Tables", "load_database", "read_copy", "save_database"]

T = TypeVar("T")

_BATCH: Final = 500


@dataclass(frozen=True)
class Tables:
    """The tables of a service.

    Args:
        package: The package whose folder `migrations` makes them.
        metadata: The tables as the migrations leave them.
    """

    package: str
    metadata: sa.MetaData


def save_database(url: str, tables: Tables, target: Path) -> str:
    """Write what a database holds at one moment into a new file, readable by its owner only.

    Writers go on meanwhile.

    Args:
        url: The database; a service may be using it.
        tables: Its tables.
        target: The file; it must not be there.

    Returns:
        The name of the schema that the copy has.

    Raises:
        DatabaseUnusableError: The database is not there, is damaged, or has a schema that this
            program cannot copy.
    """
    path = sqlite_path(url)
    if path is not None and not path.exists():
        raise DatabaseUnusableError(f"There is no database {path} to be saved.")
    copy = sqlite_url(target)
    try:
        if path is None:
            _save_rows(url, tables, copy)
        else:
            check_file(path)
            _save_file(path, target)
        _settle(target)
        revision = read_copy(target, revision_of)
    except (sa.exc.DBAPIError, sqlite3.DatabaseError) as error:
        raise start_failure(url, error) from error
    if revision is None:
        raise DatabaseUnusableError(f"The database {shown(url)} holds nothing of Podbay.")
    return revision


def load_database(source: Path, tables: Tables, url: str) -> None:
    """Make a new database out of a copy, with the schema of this program.

    Args:
        source: What `save_database` wrote, by this or an earlier version of the program.
        tables: The tables.
        url: The database: a SQLite file that is not there, or a PostgreSQL schema that is empty.

    Raises:
        DatabaseUnusableError: The copy is damaged or of a newer version, or there is something
            where the database shall be. Nothing was changed.
    """
    path = sqlite_path(url)
    if path is not None and path.exists():
        raise DatabaseUnusableError(f"The database {path} is there already; nothing was changed.")
    check_file(source, writable=False)
    folder = source.parent if path is None else path.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".restore-") as name:
        # A copy of its own: it may come up to another schema on the way.
        copy = Path(name) / source.name
        shutil.copyfile(source, copy)
        copy.chmod(0o600)
        migrate(f"sqlite:///{copy}", tables.package)
        if path is None:
            _load_rows(copy, tables, url)
        else:
            _settle(copy)
            copy.replace(path)


def read_copy(file: Path, function: Callable[[sa.Connection], T]) -> T:
    """Return what a function finds in a copy, which is not changed."""
    # Also where nothing can be written, as on another's medium.
    uri = f"{file.absolute().as_uri()}?mode=ro&immutable=1"
    engine = sa.create_engine("sqlite://", creator=lambda: sqlite3.connect(uri, uri=True))
    try:
        with engine.connect() as connection:
            return function(connection)
    finally:
        engine.dispose()


@contextmanager
def _engine(url: str) -> Iterator[sa.Engine]:
    engine = make_engine(url, **PATIENT)
    try:
        yield engine
    finally:
        engine.dispose()


def _save_file(path: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True)) as source,
        closing(sqlite3.connect(target)) as copy,
    ):
        # All pages in one step are of one moment; with a write-ahead log nobody waits for it.
        source.backup(copy, pages=-1)
        if copy.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise damaged(f"sqlite:///{path}")


def _save_rows(url: str, tables: Tables, copy: str) -> None:
    head = head_of(tables.package)
    migrate(copy, tables.package)
    with (
        _engine(url) as source,
        _engine(copy) as target,
        source.connect() as reading,
        target.connect() as plain,
    ):
        found = revision_of(reading)
        if found is None:
            raise DatabaseUnusableError(f"The database {shown(url)} holds nothing of Podbay.")
        if found != head:
            raise DatabaseUnusableError(
                f"The database {shown(url)} has schema {found}, and this version of Podbay copies "
                f"{head}. Use the version that runs there."
            )
        writing = plain.execution_options(**{WRITING: True})
        with writing.begin():
            _copy_rows(reading, writing, tables)


def _load_rows(copy: Path, tables: Tables, url: str) -> None:
    # Whatever is there already is found before anything is made.
    _check_empty(url)
    migrate(url, tables.package)
    try:
        with (
            _engine(f"sqlite:///{copy}") as source,
            _engine(url) as target,
            source.connect() as reading,
            target.connect() as plain,
        ):
            writing = plain.execution_options(**{WRITING: True})
            with writing.begin():
                for table in tables.metadata.sorted_tables:
                    if writing.execute(sa.select(table).limit(1)).first() is not None:
                        raise _not_empty(url)
                _copy_rows(reading, writing, tables)
    except sa.exc.DBAPIError as error:
        raise start_failure(url, error) from error


def _check_empty(url: str) -> None:
    """Raise where the schema holds anything but tables without rows."""
    try:
        with _engine(url) as engine, engine.connect() as connection:
            found = sa.MetaData()
            found.reflect(connection, schema=schema_of(url))
            for table in found.sorted_tables:
                if table.name == "alembic_version":
                    continue
                if connection.execute(sa.select(sa.literal(1)).select_from(table)).first():
                    raise _not_empty(url)
    except sa.exc.DBAPIError as error:
        raise start_failure(url, error) from error


def _not_empty(url: str) -> DatabaseUnusableError:
    return DatabaseUnusableError(
        f"The database {shown(url)} is not empty, and nothing was changed. Restore into another "
        "schema (?schema=NAME) or another database."
    )


def _copy_rows(source: sa.Connection, target: sa.Connection, tables: Tables) -> None:
    for table in tables.metadata.sorted_tables:
        columns = [column.name for column in table.columns]
        rows = source.execution_options(yield_per=_BATCH).execute(sa.select(table))
        for batch in rows.partitions(_BATCH):
            target.execute(
                sa.insert(table), [dict(zip(columns, row, strict=True)) for row in batch]
            )


def _settle(path: Path) -> None:
    """Make a file that stands by itself, and have the disk know it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.chmod(0o600)
