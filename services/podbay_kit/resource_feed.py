"""Watches over a resource store: every change once, in order, for many watchers at a time.

Watchers share what is read from the database: the last changes are kept in memory, and one of
the watchers that wait reads on for all of them, at most once for each commit of this process
(which announces it), and now and then for commits of other processes: four times a second where
the database is shared (PostgreSQL), every few seconds where it is not. Looking costs one row by its
key; a NOTIFY for each commit would cost all writers of the server a common lock.
"""

from __future__ import annotations

import asyncio
import bisect
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import pydantic

from podbay.v1 import common_pb2, errors_pb2
from podbay_kit.auth import Scope
from podbay_kit.errors import ServiceError, invalid
from podbay_kit.resource_filters import CompiledFilter, ResourceKind
from podbay_kit.resource_log_store import Change
from podbay_kit.resources import ResourceStore
from podbay_kit.storage import Connection, Database

__all__ = ["ChangeFeed", "Watch", "WatchEvent"]

T = TypeVar("T")
E = TypeVar("E", bound=pydantic.BaseModel)

_BATCH: Final = 500
_MAX_REVISION: Final = 2**63 - 1

_EVERYTHING: Final = CompiledFilter()
_ALL: Final = Scope(everything=True)


@dataclass(frozen=True)
class WatchEvent(Generic[E]):
    """One change, or progress.

    Args:
        revision: Everything up to this revision was sent; a watch can go on from here.
        type: What happened; CHANGE_TYPE_UNSPECIFIED where this is progress only.
        entity: The resource after the change; None where this is progress only.
    """

    revision: int
    type: common_pb2.ChangeType.ValueType = common_pb2.CHANGE_TYPE_UNSPECIFIED
    entity: E | None = None


class ChangeFeed:
    """Tells watchers what is written to a resource store. To be used on one event loop.

    Args:
        database: Where the store is.
        store: The store.
        poll_interval: Seconds after which writes of other processes are looked for; what suits the
            database unless given.
        progress_interval: Seconds after which an idle watch sends progress.
        kept: How many changes are kept in memory.
    """

    def __init__(
        self,
        database: Database,
        store: ResourceStore,
        *,
        poll_interval: float | None = None,
        progress_interval: float = 5.0,
        kept: int = 2000,
    ) -> None:
        self._database = database
        self._store = store
        self.poll_interval = poll_interval or database.poll_seconds
        self.progress_interval = progress_interval
        self._kept = kept
        # The changes of the revisions (_floor, _head], of all kinds, in order.
        self._recent: list[Change] = []
        self._floor = 0
        self._head: int | None = None
        self._refreshing = asyncio.Lock()
        self._announced = 0
        self._seen = -1
        self._read_at = float("-inf")
        self._news = asyncio.Event()

    async def write(self, function: Callable[[Connection], T]) -> T:
        """Run a writing transaction of the database, and wake the watchers after its commit."""
        try:
            return await self._database.write(function)
        finally:
            # Also where it failed or its caller went away: the transaction may be committed, and
            # a wake-up for nothing costs one look at the counter.
            self.notify()

    def notify(self) -> None:
        """Wake the watchers: something was committed. To be called on the event loop."""
        self._announced += 1
        self._news.set()
        self._news = asyncio.Event()

    def watch(
        self,
        kind: ResourceKind[E],
        after_revision: int,
        *,
        stopping: asyncio.Event,
        selected: CompiledFilter = _EVERYTHING,
        scope: Scope = _ALL,
        path: str = "afterRevision",
    ) -> Watch[E]:
        """Return an endless iterator over the changes of one kind, with progress while idle.

        A change is sent where the filter matches the resource before or after it. It needs no
        closing, and may be abandoned at any time.

        Args:
            kind: The kind of resource.
            after_revision: Changes after this revision are sent; 0 sends first what is there (but
                for what was deleted) as CREATED, and then progress.
            stopping: Ends the watch with SERVICE_STOPPING.
            selected: Which resources.
            scope: Which resources the caller may see.
            path: The path of `after_revision` in the request, for errors.

        Raises:
            ServiceError: Here INVALID_REQUEST, where the revision is negative. While iterating
                REVISION_COMPACTED, SERVICE_STOPPING or STORE_UNAVAILABLE.
        """
        if not 0 <= after_revision <= _MAX_REVISION:
            raise invalid(path, "must be a revision that a list or a watch gave, or 0")
        return Watch(self, kind, after_revision, stopping, selected, scope)

    async def snapshot(self, kind: ResourceKind[Any]) -> tuple[list[Change], int]:
        """Return what is there, and the revision of that."""
        found, revision = await self._database.read(lambda conn: self._store.snapshot(conn, kind))
        if self._head is None:
            # Where the first look came later, a change before it would be read by each watcher.
            self._head = self._floor = revision
        return found, revision

    async def after(self, kind: str, revision: int) -> tuple[list[Change], int]:
        """Return changes of one kind after a revision, and the revision up to which that is all.

        Raises:
            ServiceError: REVISION_COMPACTED or STORE_UNAVAILABLE.
        """
        await self._refresh()
        if self._head is not None and self._floor <= revision <= self._head:
            start = bisect.bisect_right(self._recent, revision, key=lambda c: c.revision)
            found = self._recent[start : start + _BATCH]
            reached = found[-1].revision if len(found) == _BATCH else self._head
            return [change for change in found if change.kind == kind], reached
        return await self._database.read(
            lambda conn: self._store.log.after(conn, kind, revision, _BATCH)
        )

    async def next_commit(self, stopping: asyncio.Event, since: int) -> None:
        """Wait for a commit after `commits` was `since`, for `stopping`, or for the next poll.

        For those who watch what is not a resource, and read it by a revision themselves.
        """
        if self._announced == since:
            await self._wait(stopping, self.poll_interval)

    @property
    def commits(self) -> int:
        """How many commits were announced; to be read before what they may have changed."""
        return self._announced

    async def news(self, stopping: asyncio.Event, timeout: float) -> None:  # noqa: ASYNC109 # the look-out ends, and is no failure
        """Wait for a commit, for `stopping`, or for `timeout` seconds."""
        if self._announced > self._seen:
            return
        await self._wait(stopping, timeout)

    async def _wait(self, stopping: asyncio.Event, timeout: float) -> None:  # noqa: ASYNC109 # as above
        waiting = [
            asyncio.ensure_future(self._news.wait()),
            asyncio.ensure_future(stopping.wait()),
        ]
        try:
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiting:
                waiter.cancel()

    async def _refresh(self) -> None:
        """Read on in the change log, where nobody did since the last commit or poll."""
        wanted = self._announced
        if not self._is_fresh(wanted):
            async with self._refreshing:
                # While this one waited, another may have read. One batch is enough: whoever
                # still finds something to go on with comes again.
                if not self._is_fresh(wanted):
                    await self._read_on()

    def _is_fresh(self, wanted: int) -> bool:
        return self._seen >= wanted and time.monotonic() - self._read_at < 0.9 * self.poll_interval

    async def _read_on(self) -> None:
        announced, read_at, head = self._announced, time.monotonic(), self._head
        changes: list[Change] = []
        if head is None:
            self._head = self._floor = await self._database.read(self._store.log.revision)
        else:
            start = head
            try:
                changes, self._head = await self._database.read(
                    lambda conn: self._store.log.after(conn, None, start, _BATCH)
                )
            except ServiceError as error:
                if error.reason != errors_pb2.ERROR_REASON_REVISION_COMPACTED:
                    raise
                # Nobody watched for long. What is kept here begins anew; watchers that are
                # behind read from the database, which knows what it still has.
                self._recent.clear()
                self._head = None
                return
            self._recent += changes
            self._trim()
        if len(changes) < _BATCH:
            self._seen = announced
            self._read_at = read_at

    def _trim(self) -> None:
        if len(self._recent) < 2 * self._kept:
            return
        cut = len(self._recent) - self._kept
        self._floor = self._recent[cut - 1].revision
        del self._recent[:cut]


class Watch(Generic[E]):
    """One watch; iterate over it with `async for`."""

    def __init__(
        self,
        feed: ChangeFeed,
        kind: ResourceKind[E],
        after_revision: int,
        stopping: asyncio.Event,
        selected: CompiledFilter,
        scope: Scope,
    ) -> None:
        self._feed = feed
        self._kind = kind
        self._position = after_revision
        self._from_start = after_revision == 0
        self._stopping = stopping
        self._selected = selected
        self._scope = scope
        self._ready: deque[Change] = deque()
        self._reached = after_revision
        # The first progress is sent as soon as all is sent that there was.
        self._caught_up = False
        self._progress_at = 0.0

    def __aiter__(self) -> Watch[E]:
        return self

    async def __anext__(self) -> WatchEvent[E]:
        """Return the next change, or progress.

        Raises:
            ServiceError: REVISION_COMPACTED, SERVICE_STOPPING or STORE_UNAVAILABLE.
        """
        while True:
            if self._stopping.is_set():
                raise ServiceError(
                    errors_pb2.ERROR_REASON_SERVICE_STOPPING,
                    "The service is about to stop. Watch again from the last revision that came.",
                    retry_after=1.0,
                )
            while self._ready:
                change = self._ready.popleft()
                self._position = change.revision
                if self._is_selected(change):
                    return self._event(change)
            self._position = max(self._position, self._reached)
            if await self._fill():
                continue
            now = time.monotonic()
            if not self._caught_up or now >= self._progress_at:
                self._caught_up = True
                self._progress_at = now + self._feed.progress_interval
                return WatchEvent(self._position)
            await self._feed.news(
                self._stopping, min(self._progress_at - now, self._feed.poll_interval)
            )

    async def _fill(self) -> bool:
        """Fetch what comes next; say whether the look-out has to wait no longer."""
        if self._from_start:
            changes, self._reached = await self._feed.snapshot(self._kind)
            self._from_start = False
        else:
            changes, self._reached = await self._feed.after(self._kind.name, self._position)
        self._ready.extend(changes)
        return self._reached > self._position

    def _is_selected(self, change: Change) -> bool:
        if not self._selected and self._scope.everything:
            return True
        return change.concerns(self._selected, self._scope)

    def _event(self, change: Change) -> WatchEvent[E]:
        self._progress_at = time.monotonic() + self._feed.progress_interval
        return WatchEvent(change.revision, change.type, self._kind.load(change.document))
