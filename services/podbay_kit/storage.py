"""Databases: short transactions in threads, one writer at a time, migrations.

SQLAlchemy Core over SQLite. A writing transaction starts with BEGIN IMMEDIATE: one that begins
by reading and turns into a writer later fails at once with SQLITE_BUSY_SNAPSHOT, whatever the
busy timeout.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError

from podbay.v1 import errors_pb2
from podbay_kit.errors import ServiceError, StartError

Connection = sa.Connection
"""What a transaction is given: for those that hand it on and speak no SQL themselves."""

__all__ = ["Connection", "Database", "DatabaseUnusableError", "migrate", "sqlite_url"]

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

_BUSY_SECONDS = 10.0
_READERS = 4


class DatabaseUnusableError(StartError):
    """A database cannot be used; the text says why and what to do. Nothing was changed."""


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file that only its owner can read, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Made here, so that it never exists with wider permissions. SQLite gives the files beside it
    # (-wal, -shm) the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    return f"sqlite:///{path}"


def _engine(url: str) -> sa.Engine:
    engine = sa.create_engine(
        url,
        connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
        pool_size=_READERS + 1,
        max_overflow=0,
        # Logged errors must not hold documents, names or hashes.
        hide_parameters=True,
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        # The driver's own transaction handling is off: BEGIN is said below, in the right form.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        # With WAL, NORMAL can lose the last commits when the machine loses power; FULL cannot.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writing = connection.get_execution_options().get("podbay_writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


class Database:
    """One database of one service.

    Transactions are synchronous functions over a connection; they run in threads, so that a slow
    disk never stops the event loop. A function must not wait for anything but the database.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="podbay-db-writer")
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="podbay-db-reader")

    async def read(self, function: Callable[[sa.Connection], T]) -> T:
        """Run a function in a reading transaction: all it reads is of one moment.

        Raises:
            ServiceError: STORE_UNAVAILABLE, where the database is busy, full or broken.
        """
        return await self._run(self._readers, function, writing=False)

    async def write(self, function: Callable[[sa.Connection], T]) -> T:
        """Run a function in a writing transaction and commit; roll back where it raises.

        Raises:
            ServiceError: STORE_UNAVAILABLE, where the database is busy, full or broken.
        """
        return await self._run(self._writer, function, writing=True)

    async def close(self) -> None:
        """Finish what runs, and close all connections."""
        await asyncio.to_thread(self._shutdown)

    def _shutdown(self) -> None:
        self._writer.shutdown()
        self._readers.shutdown()
        self._engine.dispose()

    async def _run(
        self,
        executor: ThreadPoolExecutor,
        function: Callable[[sa.Connection], T],
        *,
        writing: bool,
    ) -> T:
        def transaction() -> T:
            with self._engine.connect() as connection:
                marked = connection.execution_options(podbay_writing=writing)
                with marked.begin():
                    return function(marked)

        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(executor, transaction)
        try:
            # A caller that goes away must not leave a transaction half-observed: it runs to its
            # end in its thread, and only the waiting stops.
            return await asyncio.shield(future)
        except (sa.exc.OperationalError, sa.exc.TimeoutError) as error:
            _LOG.warning("the database failed a transaction", exc_info=error)
            raise _unavailable(error) from error
        except asyncio.CancelledError:
            future.add_done_callback(_observe)
            raise


def _observe(future: asyncio.Future[Any]) -> None:
    """Log what an abandoned transaction met; nobody else will."""
    if not future.cancelled() and future.exception() is not None:
        _LOG.warning("an abandoned transaction failed", exc_info=future.exception())


def _unavailable(error: Exception) -> ServiceError:
    original = getattr(error, "orig", None)
    name = getattr(original, "sqlite_errorname", "") or type(original or error).__name__
    hints = {
        "SQLITE_FULL": "The disk of the service's data directory is full: make room.",
        "SQLITE_BUSY": "Another process holds the database: try again.",
        "SQLITE_READONLY": "The data directory cannot be written: check its permissions.",
    }
    hint = hints.get(name, "The service's log has the details; try again.")
    return ServiceError(
        errors_pb2.ERROR_REASON_STORE_UNAVAILABLE,
        f"The store could not finish the transaction ({name}). {hint}",
        retry_after=1.0,
        metadata={"store": name},
    )


def migrate(url: str, package: str) -> None:
    """Bring a database to the schema of this program.

    Args:
        url: The database.
        package: The package whose folder `migrations` holds the Alembic scripts.

    Raises:
        DatabaseUnusableError: The file is damaged, or its schema is newer than this program.
    """
    config = Config()
    config.set_main_option("script_location", f"{package}:migrations")
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    engine = _engine(url)
    try:
        with engine.connect() as connection:
            marked = connection.execution_options(podbay_writing=True)
            with marked.begin():
                _check_integrity(marked, url)
                _check_known(marked, scripts, url)
                config.attributes["connection"] = marked
                command.upgrade(config, "head")
    except (sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
        raise _damaged(url) from error
    finally:
        engine.dispose()


def _check_integrity(connection: sa.Connection, url: str) -> None:
    if connection.dialect.name != "sqlite":
        return
    result = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
    if result != "ok":
        raise _damaged(url)


def _check_known(connection: sa.Connection, scripts: ScriptDirectory, url: str) -> None:
    current = MigrationContext.configure(connection).get_current_revision()
    if current is None:
        return
    try:
        scripts.get_revision(current)
    except CommandError as error:
        raise DatabaseUnusableError(
            f"The database {_shown(url)} has schema {current}, which this version of Podbay does "
            "not know: a newer version wrote it. Start that version, or restore a backup made "
            "before the upgrade."
        ) from error


def _damaged(url: str) -> DatabaseUnusableError:
    return DatabaseUnusableError(
        f"The database {_shown(url)} is damaged, or is not a database. Nothing was changed. Move "
        "the file away and restore a backup in its place, or start with an empty data directory."
    )


def _shown(url: str) -> str:
    return sa.make_url(url).render_as_string(hide_password=True).removeprefix("sqlite:///")
