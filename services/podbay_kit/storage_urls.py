"""Where a service keeps its data: a SQLite file, or a PostgreSQL by its URL.

A URL may hold a password, so it is never shown as it is. It does not come from the command line
either, where everybody on the machine could read it.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from podbay_kit.storage_errors import DatabaseUnusableError

__all__ = [
    "SCHEMA",
    "chosen_database",
    "database_options",
    "is_postgresql",
    "postgresql_url",
    "shown",
    "sqlite_path",
    "sqlite_url",
]

SCHEMA: Final = "schema"
"""The part of a PostgreSQL URL's query that names the schema; not libpq's."""

_DEFAULT_SCHEMA: Final = "podbay"
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_SCHEMES: Final = ("postgresql", "postgres", "postgresql+psycopg")
_EXAMPLE: Final = "postgresql://podbay@db.example/podbay"


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file that only its owner can read, and make its folder.

    Raises:
        DatabaseUnusableError: The folder or the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            # Made here, so that it never exists with wider permissions. SQLite gives the files
            # beside it (-wal, -shm) the same mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise DatabaseUnusableError(
            f"The database {path} cannot be made ({error.strerror}). Check the permissions of its "
            "folder and the room on its disk, or name another --data-dir."
        ) from error
    return f"sqlite:///{path}"


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite URL; None for another database."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database)


def is_postgresql(url: str) -> bool:
    """Say whether a URL is one of PostgreSQL."""
    return sa.make_url(url).get_backend_name() == "postgresql"


def postgresql_url(text: str, service: str) -> str:
    """Return the URL of a service's own schema in a PostgreSQL database.

    Services of one installation are given the same URL: each keeps its data in a schema of its
    own, `podbay_registry` and `podbay_session_manager`. Installations that share a database say
    `?schema=NAME`, for `NAME_registry` and `NAME_session_manager`.

    Args:
        text: The URL as libpq takes it.
        service: The name of the service, as "registry".

    Raises:
        DatabaseUnusableError: It is no such URL. The text holds nothing of it.
    """
    try:
        url = sa.make_url(text.strip())
    except (ValueError, sa.exc.ArgumentError):
        # The error's own text can hold parts of a password.
        raise DatabaseUnusableError(
            f"The database is not given as a URL, as {_EXAMPLE}. Characters of a password that "
            "mean something in a URL are written as %40 for @, %2F for /, %3A for :."
        ) from None
    if url.drivername not in _SCHEMES:
        raise DatabaseUnusableError(
            f"The database is a URL of PostgreSQL, as {_EXAMPLE}. Without one, the service keeps "
            "its data in a SQLite file of its data directory."
        )
    query = dict(url.query)
    schema = query.pop(SCHEMA, _DEFAULT_SCHEMA)
    if not isinstance(schema, str) or not _NAME.fullmatch(schema):
        raise DatabaseUnusableError(
            "The schema in the URL of the database has at most 40 small letters, digits and "
            "underscores, and begins with no digit."
        )
    # Where a URL is shown, only what stands before the host is hidden.
    user = query.pop("user", None) or url.username
    password = query.pop("password", None) or url.password
    if not isinstance(user, str | None) or not isinstance(password, str | None):
        raise DatabaseUnusableError("The URL of the database names its user or password twice.")
    if password and not user:
        raise DatabaseUnusableError(f"A URL with a password names the user, too: {_EXAMPLE}")
    url = url.set(username=user, password=password)
    named = {**query, SCHEMA: f"{schema}_{service}"}
    return url.set(drivername="postgresql+psycopg", query=named).render_as_string(
        hide_password=False
    )


def shown(url: str) -> str:
    """Return a database for people: the path of a file, or a URL without its secrets."""
    path = sqlite_path(url)
    if path is not None:
        return str(path)
    parsed = sa.make_url(url)
    schema = parsed.query.get(SCHEMA)
    bare = sa.URL.create(
        "postgresql", parsed.username, None, parsed.host, parsed.port, parsed.database
    )
    suffix = f" (schema {schema})" if schema else ""
    return f"{bare.render_as_string()}{suffix}"


def database_options(parser: argparse.ArgumentParser, service: str) -> None:
    """Add the options that say where a service keeps its data."""
    group = parser.add_argument_group("the database")
    group.add_argument(
        "--database",
        metavar="URL",
        help=f"a PostgreSQL, as {_EXAMPLE}, instead of a SQLite file in the data directory. "
        f"A URL with a password comes from {_variable(service)} or PODBAY_DATABASE, or from a "
        "file; ~/.pgpass works too",
    )
    group.add_argument(
        "--database-file",
        type=Path,
        metavar="FILE",
        help="a file that holds that URL; readable by its owner only",
    )


def chosen_database(
    options: argparse.Namespace, service: str, environment: MutableMapping[str, str] | None = None
) -> str | None:
    """Return the URL of the database that was asked for; None for the file in the data directory.

    The variables are taken out of the environment, so that nothing that the service starts
    inherits a password.

    Args:
        options: What `database_options` made of the command line.
        service: The name of the service, as "registry".
        environment: The environment variables; those of this process unless given.

    Raises:
        DatabaseUnusableError: What was given cannot be used.
    """
    variables = os.environ if environment is None else environment
    general = variables.pop("PODBAY_DATABASE", None)
    own = variables.pop(_variable(service), None)
    if options.database is not None and options.database_file is not None:
        raise DatabaseUnusableError("Give one of --database and --database-file.")
    text = own or general or None
    if options.database_file is not None:
        text = _read(options.database_file)
    elif options.database is not None:
        text = options.database
    if text is None:
        return None
    url = postgresql_url(text, service)
    parsed = sa.make_url(url)
    if text is options.database and parsed.password:
        raise DatabaseUnusableError(
            "The URL of --database holds a password, which everybody on this machine can read from "
            f"the list of processes. Change it, and put the URL into {_variable(service)} or into "
            "a file for --database-file (chmod 600)."
        )
    return url


def _variable(service: str) -> str:
    return f"PODBAY_{service.upper()}_DATABASE"


def _read(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DatabaseUnusableError(
            f"The file {path} of --database-file cannot be read ({type(error).__name__})."
        ) from error
    if mode & 0o077:
        raise DatabaseUnusableError(
            f"The file {path} of --database-file is open to others. Mend it: chmod 600 {path}"
        )
    if not text:
        raise DatabaseUnusableError(f"The file {path} of --database-file is empty.")
    return text
