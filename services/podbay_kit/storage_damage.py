"""Databases that cannot be used at the start: what is wrong with them, and the way out.

A SQLite file is looked at before SQLite opens it, which would begin to write to it.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Final

from podbay_kit.storage_errors import DatabaseUnusableError, code_of, is_lost
from podbay_kit.storage_urls import is_postgresql, shown, sqlite_path

__all__ = ["check_content", "check_file", "damaged", "start_failure"]

_MAGIC: Final = b"SQLite format 3\0"
_HEADER: Final = 100
_WAL_HEADER: Final = 32
_BUSY_SECONDS: Final = 10.0

_RESTORE: Final = (
    "Nothing was changed. Stop the service, move the file away together with those beside it "
    "(-wal, -shm), and restore a backup (podbay restore), or start with an empty data directory."
)


def damaged(url: str, what: str = "is damaged, or is not a database") -> DatabaseUnusableError:
    """Return the error of a database that is not what it should be."""
    return DatabaseUnusableError(f"The database {shown(url)} {what}. {_RESTORE}")


def check_file(path: Path, *, writable: bool = True) -> None:
    """Look at a SQLite file and what lies beside it. It writes nothing.

    Args:
        path: The file.
        writable: Whether it must be.

    Raises:
        DatabaseUnusableError: It cannot be used; the text says why and what to do.
    """
    url = f"sqlite:///{path}"
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise damaged(url, "is not a file")
        if writable:
            _check_access(path, found)
        with path.open("rb") as file:
            header = file.read(_HEADER)
        wal = _size_of(path.with_name(f"{path.name}-wal"))
    except OSError as error:
        raise DatabaseUnusableError(
            f"The database {path} cannot be read ({error.strerror}). Check its permissions and "
            "its disk. Nothing was changed."
        ) from error
    if not header:
        if wal > _WAL_HEADER:
            raise damaged(url, f"is empty, and {path.name}-wal beside it is not: it was truncated")
        return
    if not header.startswith(_MAGIC):
        raise damaged(url)
    if len(header) < _HEADER:
        raise damaged(url, "is truncated")
    size, pages = _page_size(header), int.from_bytes(header[28:32])
    # With a log, the newest pages may be in there.
    if wal <= _WAL_HEADER and pages and found.st_size < pages * size:
        raise damaged(url, f"is truncated: it has {found.st_size} bytes and needs {pages * size}")


def check_content(path: Path) -> bool:
    """Look at all pages of a SQLite file, for reading only: what closes it writes nothing either.

    Returns:
        Whether it could be looked at; where not, SQLite has something to finish first.

    Raises:
        DatabaseUnusableError: It is damaged.
    """
    url = f"sqlite:///{path}"
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if code_of(error).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise damaged(url) from error
        return False
    if found is None or found[0] != "ok":
        raise damaged(url)
    return True


def _check_access(path: Path, found: os.stat_result) -> None:
    # SQLite makes files beside it.
    unwritable = [p for p in (path, path.parent) if not os.access(p, os.W_OK)]
    if unwritable:
        owner = f"it belongs to the user {found.st_uid}, and this process runs as {os.geteuid()}"
        raise DatabaseUnusableError(
            f"The database {path} cannot be written ({unwritable[0]} is read-only here; {owner}). "
            f"Start the service as its owner, or give it to this user: chown -R {os.geteuid()} "
            f"{path.parent}. Nothing was changed."
        )


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _page_size(header: bytes) -> int:
    size = int.from_bytes(header[16:18])
    return 65536 if size == 1 else size


def start_failure(url: str, error: Exception) -> DatabaseUnusableError:
    """Return why a database cannot be used, out of what it said at the start."""
    if is_postgresql(url):
        return _server_failure(url, error)
    code = code_of(error)
    path = sqlite_path(url)
    for beginning, text in _FILE_FAILURES.items():
        if code.startswith(beginning):
            return DatabaseUnusableError(f"The database {path} {text} Nothing was changed.")
    return damaged(url)


_FILE_FAILURES: Final = {
    # The memory that its processes share lies on the disk as well.
    "SQLITE_IOERR_SHMSIZE": "needs room, and its disk is full. Make room.",
    "SQLITE_BUSY": "is held by another process. Stop it, or wait until it is done.",
    "SQLITE_FULL": "needs room, and its disk is full. Make room.",
    "SQLITE_READONLY": "cannot be written. Check the permissions of the file and its folder.",
    "SQLITE_CANTOPEN": "cannot be opened. Check the permissions of the file and its folder.",
    "SQLITE_PERM": "cannot be opened. Check the permissions of the file and its folder.",
    "SQLITE_IOERR": "cannot be read or written: its disk fails. Look into the system's log.",
}

_SERVER_FAILURES: Final = {
    "28P01": "does not take the password. Check it in the URL, or in ~/.pgpass.",
    "28000": "does not let this user in. Check the user, and pg_hba.conf of the server.",
    "3D000": "does not exist. Make it: createdb --encoding=UTF8 --template=template0 NAME",
    "42501": "does not let this user make its schema. GRANT CREATE ON DATABASE … TO …",
    "53100": "needs room, and the disk of its server is full. Make room.",
    "53300": "has no connection left. Raise max_connections of the server.",
    "55P03": "is being migrated by another process, which does not end. Look at pg_locks.",
}


def _server_failure(url: str, error: Exception) -> DatabaseUnusableError:
    code = code_of(error)
    text = _SERVER_FAILURES.get(code)
    if text is None:
        text = (
            "cannot be reached. Check host and port, and that the server runs."
            if is_lost(error)
            else f"cannot be used ({code}). The log of the server has the details."
        )
    return DatabaseUnusableError(f"The database {shown(url)} {text}")
