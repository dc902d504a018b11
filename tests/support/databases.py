"""Fixtures: the databases that everything that keeps data is tested over.

`database_url` is a new, empty database of a service; it is what the tests of `tests/contract` are
given once for SQLite and once for PostgreSQL.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from podbay_kit.storage import sqlite_url
from podbay_kit.storage_urls import postgresql_url
from tests.support.postgresql import PostgreSQL, running_postgresql

BACKENDS = [
    pytest.param("sqlite"),
    pytest.param("postgresql", marks=pytest.mark.needs_postgresql),
]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A server for all tests that do not stop it."""
    with running_postgresql() as server:
        yield server


@pytest.fixture
def postgresql_database(postgresql: PostgreSQL) -> str:
    """The URL of a place for a new installation, as an operator gives it."""
    # A schema is made in no time, a database is copied.
    return postgresql.url(schema=f"t_{uuid.uuid4().hex[:12]}")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of the kind of database."""
    name: str = request.param
    return name


@pytest.fixture
def database_url(request: pytest.FixtureRequest, backend: str, tmp_path: Path) -> str:
    """The URL of a new database of a service."""
    if backend == "sqlite":
        return sqlite_url(tmp_path / "databases" / "store.sqlite3")
    return postgresql_url(request.getfixturevalue("postgresql_database"), "registry")
