"""Databases: short transactions in threads, one writer at a time, and what is tried again.

SQLAlchemy Core over SQLite or PostgreSQL; `podbay_kit.storage_engines` says how transactions
begin, `podbay_kit.storage_migrations` how a database comes to its schema.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from podbay_kit.audit import current_entry
from podbay_kit.errors import ServiceError
from podbay_kit.storage_engines import READERS, WRITING, make_engine
from podbay_kit.storage_errors import (
    IDLE_TOO_LONG,
    DatabaseUnusableError,
    code_of,
    is_conflict,
    is_lost,
    refused_text,
    unavailable,
)
from podbay_kit.storage_migrations import migrate
from podbay_kit.storage_urls import chosen_database, database_options, is_postgresql, sqlite_url

Connection = sa.Connection
"""What a transaction is given: for those that hand it on and speak no SQL themselves."""

__all__ = [
    "Connection",
    "Database",
    "DatabaseUnusableError",
    "chosen_database",
    "database_options",
    "migrate",
    "sqlite_url",
]

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

# How long a transaction is tried again where the server is gone for a moment, as by a restart.
_PATIENCE_SECONDS: Final = 3.0
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.5

# How often writes of other processes are looked for, where somebody waits for them. With SQLite
# one process has all those who wait, and all who write while they do; it tells them at once.
_POLL_SECONDS: Final = {"sqlite": 2.5, "postgresql": 0.25}


class Database:
    """One database of one service.

    Transactions are synchronous functions over a connection; they run in threads, so that a slow
    disk never stops the event loop. A function must not wait for anything but the database, and
    must bear being run more than once: where a server restarts, or transactions are in each
    other's way, what was rolled back is tried again for a while.
    """

    def __init__(self, url: str) -> None:
        self._engine = make_engine(url)
        self.is_shared: Final = is_postgresql(url)
        """Whether other processes, on other machines too, may use the database."""
        self.poll_seconds: Final = _POLL_SECONDS[self._engine.dialect.name]
        """How often to look for what other processes have written."""
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="podbay-db-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="podbay-db-reader")
        self._closing = threading.Event()
        self._guard: Callable[[sa.Connection], None] | None = None

    def guarded(self, guard: Callable[[sa.Connection], None]) -> Database:
        """Return a view of this database that looks first in each writing transaction.

        Args:
            guard: Called with the connection before anything is written; what it raises ends the
                transaction, and nothing is written.

        Returns:
            The view. It ends with this database, and is not to be closed itself.
        """
        view = copy.copy(self)
        view._guard = guard  # noqa: SLF001 # of this class
        return view

    async def read(self, function: Callable[[sa.Connection], T]) -> T:
        """Run a function in a reading transaction: all it reads is of one moment.

        Raises:
            ServiceError: STORE_UNAVAILABLE, where the database is busy, full or broken.
        """
        return await self._run(self._readers, function, writing=False)

    async def write(self, function: Callable[[sa.Connection], T]) -> T:
        """Run a function in a writing transaction and commit; roll back where it raises.

        No other writing transaction of this database runs at the same time, in any process.
        Within a call that changes something the call's audit entry is part of the transaction.

        Raises:
            ServiceError: STORE_UNAVAILABLE, where the database is busy, full or broken.
        """
        return await self._run(self._writer, function, writing=True)

    async def close(self) -> None:
        """Finish what runs, and close all connections."""
        self._closing.set()
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
        if writing and self._guard is not None:
            function = _behind(self._guard, function)
        # From now on: what waits behind others that are tried again does not wait anew.
        give_up = time.monotonic() + _PATIENCE_SECONDS
        entry = current_entry() if writing else None
        # What the function calls may note more for the entry.
        context = contextvars.copy_context()

        def whole(connection: sa.Connection) -> T:
            result = context.run(function, connection)
            if entry is not None:
                entry.before_commit(connection)
            return result

        def transaction() -> T:
            result = self._tried(whole, writing=writing, give_up=give_up)
            if entry is not None:
                entry.after_commit()
            return result

        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(executor, transaction)
        try:
            # A caller that goes away must not leave a transaction half-observed: it runs to its
            # end in its thread, and only the waiting stops.
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(_observe)
            raise

    def _tried(self, function: Callable[[sa.Connection], T], *, writing: bool, give_up: float) -> T:
        """Run a transaction, again where nothing came of it and another try may go well."""
        pause = _FIRST_PAUSE
        while True:
            attempt = _Attempt(self._engine, writing=writing)
            try:
                return attempt.run(function)
            except (sa.exc.IntegrityError, sa.exc.ProgrammingError):
                # A defect, and no state of the database.
                raise
            except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
                refused = refused_text(error) if isinstance(error, sa.exc.DBAPIError) else None
                if refused is not None:
                    raise refused from None
                again = attempt.was_undone(error)
                left = give_up - time.monotonic()
                if not again or left <= 0 or self._closing.wait(min(left, _jittered(pause))):
                    # Of a server that is away there is nothing to trace.
                    trace = None if is_lost(error) else error
                    _LOG.warning(
                        "the database failed a transaction (%s)", code_of(error), exc_info=trace
                    )
                    raise unavailable(
                        error, unknown=writing and attempt.committing and is_lost(error)
                    ) from error
                pause = min(2 * pause, _LONGEST_PAUSE)


def _behind(
    guard: Callable[[sa.Connection], None], function: Callable[[sa.Connection], T]
) -> Callable[[sa.Connection], T]:
    def guarded(connection: sa.Connection) -> T:
        guard(connection)
        return function(connection)

    return guarded


class _Attempt:
    """One try of one transaction."""

    def __init__(self, engine: sa.Engine, *, writing: bool) -> None:
        self._engine = engine
        self._writing = writing
        self.committing = False

    def run(self, function: Callable[[sa.Connection], T]) -> T:
        with self._engine.connect() as connection:
            marked = connection.execution_options(**{WRITING: self._writing})
            with marked.begin():
                result = function(marked)
                self.committing = True
            return result

    def was_undone(self, error: Exception) -> bool:
        """Say whether nothing came of it, and another try may go better."""
        if not isinstance(error, sa.exc.DBAPIError):
            return False
        if is_conflict(error) or getattr(error.orig, "sqlstate", None) == IDLE_TOO_LONG:
            return True
        # Who was told nothing of a commit cannot know whether it was done.
        return is_lost(error) and not (self._writing and self.committing)


def _jittered(pause: float) -> float:
    return pause * random.uniform(0.5, 1.5)  # noqa: S311 # no secret


def _observe(future: asyncio.Future[Any]) -> None:
    """Log a defect that an abandoned transaction met; nobody else will.

    A ServiceError is none: it is an answer, as that something does not exist, to who has left.
    """
    error = None if future.cancelled() else future.exception()
    if error is not None and not isinstance(error, ServiceError):
        _LOG.warning("an abandoned transaction failed", exc_info=error)
