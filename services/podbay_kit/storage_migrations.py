"""Migrations: a database comes to the schema of this program, or is refused and left alone.

Alembic does it. A database that has the schema already needs none of that, which takes a third of a
service's start.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from importlib import resources
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from podbay_kit.storage_damage import check_content, check_file, damaged, start_failure
from podbay_kit.storage_engines import PATIENT, WRITING, make_engine, schema_of
from podbay_kit.storage_errors import DatabaseUnusableError, code_of
from podbay_kit.storage_urls import is_postgresql, shown, sqlite_path

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

__all__ = ["head_of", "migrate", "revision_of", "scripts_of"]

# How long a server may take to come up beside the service.
_PATIENCE_SECONDS: Final = 15.0
_PAUSE_SECONDS: Final = 0.5
_OLDEST_POSTGRESQL: Final = 130_000
_STARTING: Final = ("LOST", "57P01", "57P02", "57P03", "53300")
_VERSIONS: Final = sa.table("alembic_version", sa.column("version_num"))
_PAUSED = threading.Event()

_NAME: Final = re.compile(r'^(revision|down_revision) = (?:"([^"]+)"|None)$', re.MULTILINE)

# Alembic keeps the configuration that it works with in the module `alembic.context`.
_ALEMBIC = threading.Lock()


def migrate(url: str, package: str, revision: str = "head") -> None:
    """Bring a database to the schema of this program.

    Several processes may do this at once: one does it, the others find it done.

    Args:
        url: The database.
        package: The package whose folder `migrations` holds the Alembic scripts.
        revision: Where to stop; for tests, which begin with the schema of an earlier release.

    Raises:
        DatabaseUnusableError: It is damaged, out of reach, something else's, or its schema is
            newer than this program. Nothing was changed.
    """
    path = sqlite_path(url)
    if path is not None:
        check_file(path)
    checked = path is None or check_content(path)
    # A large database takes its time, and another process may be at it.
    engine = make_engine(url, **PATIENT)
    give_up = time.monotonic() + _PATIENCE_SECONDS
    try:
        while True:
            try:
                _migrate_once(engine, url, package, revision, checked=checked)
            except sa.exc.DBAPIError as error:
                waiting = code_of(error) in _STARTING and time.monotonic() < give_up
                if is_postgresql(url) and waiting:
                    _PAUSED.wait(_PAUSE_SECONDS)
                    continue
                raise start_failure(url, error) from error
            except sqlite3.DatabaseError as error:
                raise start_failure(url, error) from error
            return
    finally:
        engine.dispose()


def scripts_of(package: str) -> ScriptDirectory:
    """Return the migrations of a package."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415 # takes long

    return ScriptDirectory.from_config(_config(package))


def head_of(package: str) -> str:
    """Return the name of the schema that this program works with.

    Raises:
        LookupError: The package has no migrations, or none that comes last.
    """
    head = _written_head(package) or scripts_of(package).get_current_head()
    if head is None:
        raise LookupError(f"{package} has no migrations")
    return head


def _written_head(package: str) -> str | None:
    """Return the same by the scripts' text alone; None where they are written in another way."""
    names: dict[str, set[str]] = {"revision": set(), "down_revision": set()}
    for script in (resources.files(package) / "migrations" / "versions").iterdir():
        if not script.name.endswith(".py") or script.name == "__init__.py":
            continue
        found = dict(_NAME.findall(script.read_text(encoding="utf-8")))
        if found.keys() != names.keys():
            return None
        for kind, name in found.items():
            names[kind].add(name)
    heads = names["revision"] - names["down_revision"]
    return heads.pop() if len(heads) == 1 else None


def revision_of(connection: sa.Connection) -> str | None:
    """Return the name of the schema that a database has; None for none.

    Raises:
        DatabaseUnusableError: It has several at once.
    """
    if not sa.inspect(connection).has_table(_VERSIONS.name):
        return None
    names = connection.execute(sa.select(_VERSIONS.c.version_num)).scalars().all()
    if len(names) > 1:
        raise DatabaseUnusableError(
            f"The database has the schemas {', '.join(sorted(names))} at once. Restore a backup."
        )
    return str(names[0]) if names else None


def _config(package: str) -> Config:
    from alembic.config import Config  # noqa: PLC0415 # takes long

    config = Config()
    config.set_main_option("script_location", f"{package}:migrations")
    config.set_main_option("path_separator", "os")
    return config


def _migrate_once(
    engine: sa.Engine, url: str, package: str, revision: str, *, checked: bool
) -> None:
    with engine.connect() as connection:
        marked = connection.execution_options(**{WRITING: True})
        # The lock of the one writer is held throughout, so a second process waits here.
        with marked.begin():
            if is_postgresql(url):
                _prepare_schema(marked, url)
            elif not checked:
                _check_integrity(marked, url)
            if revision != "head" or revision_of(marked) != head_of(package):
                _upgrade(marked, url, package, revision)
            if is_postgresql(url):
                _sort_by_bytes(marked, schema_of(url))


def _upgrade(connection: sa.Connection, url: str, package: str, revision: str) -> None:
    from alembic import command  # noqa: PLC0415 # takes long

    _check_known(connection, scripts_of(package), url)
    config = _config(package)
    with _ALEMBIC:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def _check_integrity(connection: sa.Connection, url: str) -> None:
    if connection.exec_driver_sql("PRAGMA quick_check(1)").scalar() != "ok":
        raise damaged(url)


def _prepare_schema(connection: sa.Connection, url: str) -> None:
    """Make the service's schema at the first start.

    Raises:
        DatabaseUnusableError: The server or the database does not fit.
    """
    found = connection.exec_driver_sql(
        "SELECT current_setting('server_version_num')::int AS version,"
        " current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS standby"
    ).one()
    if found.version < _OLDEST_POSTGRESQL:
        raise DatabaseUnusableError(
            f"The server of {shown(url)} is older than PostgreSQL 13. Upgrade it."
        )
    if found.encoding != "UTF8":
        raise DatabaseUnusableError(
            f"The database {shown(url)} is encoded in {found.encoding}, which cannot hold every "
            "text. Make another one: createdb --encoding=UTF8 --template=template0 NAME"
        )
    if found.standby:
        raise DatabaseUnusableError(
            f"The server of {shown(url)} is a standby, which takes no writes. Name the primary, or "
            "several hosts with target_session_attrs=read-write."
        )
    schema = schema_of(url)
    known = sa.text("SELECT 1 FROM pg_namespace WHERE nspname = :schema")
    if connection.execute(known, {"schema": schema}).scalar() is None:
        connection.exec_driver_sql(f'CREATE SCHEMA "{schema}"')


def _check_known(connection: sa.Connection, scripts: ScriptDirectory, url: str) -> None:
    from alembic.util.exc import CommandError  # noqa: PLC0415 # takes long

    current = revision_of(connection)
    if current is None:
        tables = sa.inspect(connection).get_table_names()
        if tables:
            raise DatabaseUnusableError(
                f"The database {shown(url)} holds tables of something else, as {tables[0]!r}. "
                "Nothing was changed. Name another database, or for PostgreSQL another schema "
                "(?schema=NAME)."
            )
        return
    try:
        scripts.get_revision(current)
    except CommandError as error:
        raise DatabaseUnusableError(
            f"The database {shown(url)} has schema {current}, which this version of Podbay does "
            "not know: a newer version wrote it. Start that version, or restore a backup made "
            "before the upgrade."
        ) from error


def _sort_by_bytes(connection: sa.Connection, schema: str) -> None:
    """Let all texts sort as they do in SQLite and in Python, whatever the database's language.

    Pages are merged with lists that Python has sorted, and an index whose order comes from the
    operating system breaks when that is upgraded.
    """
    columns = connection.execute(
        sa.text(
            "SELECT table_name, column_name, character_maximum_length AS length"
            " FROM information_schema.columns WHERE table_schema = :schema"
            " AND data_type IN ('text', 'character varying')"
            " AND collation_name IS DISTINCT FROM 'C'"
        ),
        {"schema": schema},
    ).all()
    quoted = connection.dialect.identifier_preparer.quote
    for column in columns:
        kind = "text" if column.length is None else f"varchar({column.length})"
        connection.exec_driver_sql(
            f"ALTER TABLE {quoted(column.table_name)} ALTER COLUMN {quoted(column.column_name)}"
            f' TYPE {kind} COLLATE "C"'
        )
