"""What goes wrong with databases: what may be tried again, and what people are told."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from podbay.v1 import errors_pb2
from podbay_kit.errors import ServiceError, StartError

__all__ = [
    "DatabaseUnusableError",
    "code_of",
    "is_conflict",
    "is_lost",
    "refused_text",
    "unavailable",
]


class DatabaseUnusableError(StartError):
    """A database cannot be used; the text says why and what to do. Nothing was changed."""


# Of PostgreSQL (https://www.postgresql.org/docs/current/errcodes-appendix.html).
IDLE_TOO_LONG: Final = "25P03"
_TOO_LONG: Final = "54000"
_CONFLICTS: Final = frozenset({"40001", "40P01"})
# The server stops, has crashed, or starts; the connection broke.
_LOST: Final = frozenset({"57P01", "57P02", "57P03", "08000", "08003", "08006", IDLE_TOO_LONG})

_REFUSALS: Final = {
    ("password authentication failed",): "28P01",
    ("no password supplied",): "28P01",
    ("no pg_hba.conf entry",): "28000",
    ('role "', "does not exist"): "28000",
    ('database "', "does not exist"): "3D000",
    ("too many clients",): "53300",
    ("remaining connection slots",): "53300",
}

_HINTS: Final = {
    "SQLITE_FULL": "The disk of the service's data directory is full: make room.",
    "SQLITE_IOERR_SHMSIZE": "The disk of the service's data directory is full: make room.",
    "SQLITE_BUSY": "Another process holds the database: try again.",
    "SQLITE_READONLY": "The data directory cannot be written: check its permissions.",
    "SQLITE_CORRUPT": "The database is damaged: stop the service, and restore a backup.",
    "SQLITE_NOTADB": "The database is damaged: stop the service, and restore a backup.",
    "53100": "The disk of the database server is full: make room.",
    "53200": "The database server is out of memory.",
    "53300": "The database server has no connection left: raise its max_connections.",
    "55P03": "Another process holds the database: try again.",
    "57014": "The database took too long: try again.",
    "25006": "The database server takes no writes, as a standby does: name the primary.",
    "LOST": "The database server cannot be reached; the service tries again by itself.",
}


def code_of(error: BaseException) -> str:
    """Return what kind of failure it is, in the words of the database: no data, no secret.

    The name of SQLite's error, PostgreSQL's SQLSTATE, "LOST" for a connection that is not there,
    or else the name of a class.
    """
    original = getattr(error, "orig", None) or error
    name = getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None)
    if name:
        return str(name)
    # A connection that is refused has no code; the server's words say why.
    for words, code in _REFUSALS.items():
        if all(word in str(original) for word in words):
            return code
    return "LOST" if is_lost(error) else type(original).__name__


def is_conflict(error: sa.exc.DBAPIError) -> bool:
    """Say whether transactions were in each other's way: nothing was done, and it can be again."""
    return getattr(error.orig, "sqlstate", None) in _CONFLICTS


def is_lost(error: BaseException) -> bool:
    """Say whether the server or the connection to it is gone."""
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    original = error.orig
    if not type(original).__module__.startswith("psycopg"):
        return False
    state = getattr(original, "sqlstate", None)
    # A connection that cannot be made has no state.
    return state in _LOST or (state is None and isinstance(error, sa.exc.OperationalError))


def refused_text(error: sa.exc.DBAPIError) -> ServiceError | None:
    """Return the error of a text that the database cannot hold; None for other failures."""
    # psycopg refuses NUL before anything is sent; SQLite takes it, and finds nothing.
    if isinstance(error, sa.exc.DataError) and "NUL" in str(error.orig):
        return ServiceError(
            errors_pb2.ERROR_REASON_INVALID_REQUEST,
            "A text of the request holds a character that cannot be stored (NUL). Leave it out.",
        )
    # What an index holds has a limit in PostgreSQL, and a name has none.
    if getattr(error.orig, "sqlstate", None) == _TOO_LONG:
        return ServiceError(
            errors_pb2.ERROR_REASON_INVALID_REQUEST,
            "A text of the request, as a name, is too long for the database: some 2,600 bytes are "
            "the most. Shorten it.",
        )
    return None


def unavailable(error: Exception, *, unknown: bool = False) -> ServiceError:
    """Return what callers are told of a transaction that failed.

    Args:
        error: What the database said; none of its text is passed on.
        unknown: Whether the connection broke while it committed.
    """
    name = code_of(error)
    hint = _HINTS.get(name) or _HINTS.get(name.rpartition("_")[0]) or ""
    if unknown:
        hint = (
            "The connection broke while it was committed, so it may have been: look before you "
            "repeat it, or repeat it with the same request id."
        )
    elif is_lost(error):
        hint = _HINTS["LOST"]
    return ServiceError(
        errors_pb2.ERROR_REASON_STORE_UNAVAILABLE,
        f"The store could not finish the transaction ({name}). "
        f"{hint or 'The log of the service has the details; try again.'}",
        retry_after=1.0,
        metadata={"store": name},
    )
