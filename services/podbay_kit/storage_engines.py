"""Engines: how connections are made, and how transactions begin, with SQLite and PostgreSQL.

In both, one writing transaction of a store runs at a time, and a reading one sees one moment:

- SQLite: a writing transaction starts with BEGIN IMMEDIATE. One that begins by reading and turns
  into a writer later fails at once with SQLITE_BUSY_SNAPSHOT, whatever the busy timeout.
- PostgreSQL: a writing transaction first takes a lock that ends with it. What it reads afterwards
  stays as it is until it commits, as nobody else writes; there are no conflicts to repeat. A
  reading one is REPEATABLE READ. All settings are of the transaction, not of the session, so that
  a pooler in between does no harm.
"""

from __future__ import annotations

import hashlib
import importlib.util
from typing import Any, Final

import sqlalchemy as sa

from podbay_kit.storage_errors import DatabaseUnusableError
from podbay_kit.storage_urls import SCHEMA, is_postgresql

__all__ = ["PATIENT", "READERS", "WRITING", "make_engine", "schema_of", "writer_lock"]

READERS: Final = 4
"""How many reading transactions a process runs at once; a writing one comes on top."""

WRITING: Final = "podbay_writing"
"""The execution option of a connection whose transaction writes."""

_BUSY_SECONDS: Final = 10.0
_CONNECT_SECONDS: Final = 3
_RECYCLE_SECONDS: Final = 1800

# A process that is paused within a transaction must not hold up the others: the server ends it.
_TIMEOUTS: Final = {
    "lock_timeout": "10s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "5s",
}


PATIENT: Final = {
    "lock_timeout": "10min",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "10min",
}
"""The timeouts of work that takes its time, as migrations and copies."""


def make_engine(url: str, **timeouts: str) -> sa.Engine:
    """Return the engine of a database.

    Args:
        url: The database.
        **timeouts: PostgreSQL's settings of that kind, where they differ from those of short
            transactions.

    Raises:
        DatabaseUnusableError: What speaks to PostgreSQL is not installed.
    """
    return _postgresql(url, timeouts) if is_postgresql(url) else _sqlite(url)


def schema_of(url: str) -> str:
    """Return the schema of a PostgreSQL URL."""
    return str(sa.make_url(url).query[SCHEMA])


def writer_lock(schema: str) -> str:
    """Return the statement that takes the lock of a schema's one writer."""
    # Advisory locks are of the whole database, which services and installations may share.
    key = int.from_bytes(hashlib.sha256(f"podbay {schema}".encode()).digest()[:8], signed=True)
    return f"SELECT pg_advisory_xact_lock({key})"


def _sqlite(url: str) -> sa.Engine:
    engine = sa.create_engine(
        url,
        connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
        pool_size=READERS + 1,
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
        writing = connection.get_execution_options().get(WRITING, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _postgresql(url: str, timeouts: dict[str, str]) -> sa.Engine:
    if importlib.util.find_spec("psycopg") is None:
        raise DatabaseUnusableError(
            "PostgreSQL needs a driver that is not installed: pip install 'podbay[postgres]'."
        )
    schema = schema_of(url)
    parsed = sa.make_url(url).difference_update_query([SCHEMA])
    engine = sa.create_engine(
        parsed,
        connect_args={
            "application_name": schema,
            # A server that is gone without a word is noticed within seconds.
            "connect_timeout": _CONNECT_SECONDS,
            "keepalives_idle": 10,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,
            # Prepared statements are of the session; a pooler may change that.
            "prepare_threshold": None,
        },
        pool_size=READERS + 1,
        max_overflow=0,
        pool_recycle=_RECYCLE_SECONDS,
        hide_parameters=True,
    )
    settings = "".join(
        f"SET LOCAL {name} = '{value}';" for name, value in {**_TIMEOUTS, **timeouts}.items()
    )
    path = f'{settings}SET LOCAL search_path = "{schema}";'
    reading = f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;{path}"
    writing = f"SET TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE;{path}"
    locked = f"{writing}{writer_lock(schema)}"

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get(WRITING, False)
        connection.exec_driver_sql(locked if writes else reading)

    return engine
