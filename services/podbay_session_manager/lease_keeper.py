"""Gets the lease, keeps it, and gives it back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from podbay.v1 import errors_pb2
from podbay_kit.errors import ServiceError
from podbay_kit.storage import Connection
from podbay_session_manager.lease import LeaseRow, Sighting, may_take, sight
from podbay_session_manager.lease_marks import LifeMarks
from podbay_session_manager.lease_store import LeaseStore

__all__ = ["Lease", "LeaseKeeper", "boot_seconds", "not_leader"]

_LOG = logging.getLogger(__name__)
_RENEWALS: Final = 4  # within the length of a lease
_MOST_POLL_SECONDS: Final = 0.5
# What a process that was stopped, or whose store hung, gets to find out whether it still leads.
_SECOND_CHANCE_SECONDS: Final = 1.0


def boot_seconds() -> float:
    """Return seconds that also grow while the machine sleeps, where it tells them."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


def not_leader(address: str) -> ServiceError:
    """Return the refusal of a session manager that does not lead.

    Args:
        address: Where the one that leads is reached; empty where that is not known.
    """
    where = (
        f"The one at {address} leads: send the call there."
        if address
        else "None leads at this moment: try again."
    )
    return ServiceError(
        errors_pb2.ERROR_REASON_NOT_LEADER,
        f"This session manager stands by, and has done nothing. {where}",
        metadata={"leader": address} if address else {},
        retry_after=0.2,
        not_started=True,
    )


class Lease:
    """A term of leading.

    Args:
        term: Its number.
        until: Until when it is trusted without a further renewal, on the clock of `now`.
        now: The clock.
    """

    def __init__(self, term: int, until: float, now: Callable[[], float]) -> None:
        self.term = term
        self._until = until
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._refused = False
        self.lost = asyncio.Event()
        """Set when this process leads no more."""

    @property
    def valid(self) -> bool:
        """Whether nobody else can lead at this moment. May be asked in any thread."""
        return not self._refused and self._now() < self._until

    @property
    def until(self) -> float:
        """Until when it is trusted."""
        return self._until

    def renewed(self, until: float) -> None:
        """Trust it for longer."""
        self._until = until
        self._wake()

    def end(self) -> None:
        """Note that this process leads no more. To be called on the event loop."""
        self._refused = True
        self.lost.set()
        self._wake()

    def guard(self, conn: Connection) -> None:
        """Let a writing transaction pass while the term is the present one.

        Raises:
            ServiceError: NOT_LEADER; the transaction is to be rolled back.
        """
        if not LeaseStore.leads(conn, self.term):
            self._refused = True
            self._loop.call_soon_threadsafe(self.end)
            raise not_leader("")

    async def settled(self) -> bool:
        """Say whether it is valid; where it ran out, once that is known for certain."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * _SECOND_CHANCE_SECONDS):
                while not self.valid and not self._refused:
                    await self._news.wait()
        return self.valid

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class LeaseKeeper:
    """One session manager's dealings with the lease.

    Args:
        store: The row.
        marks: Tells which processes of this machine have ended.
        holder: The name of this process, which nobody else ever has.
        seconds: For how long a renewal is trusted.
        now: A clock that only grows.
    """

    def __init__(
        self,
        store: LeaseStore,
        marks: LifeMarks,
        holder: str,
        seconds: float,
        now: Callable[[], float] = boot_seconds,
    ) -> None:
        self._store = store
        self._marks = marks
        self._holder = holder
        self._seconds = seconds
        self._now = now
        self._seen: Sighting | None = None
        self.address = ""
        """Where this process is reached; to be set before it leads."""

    @property
    def leader(self) -> str:
        """Where the one that leads is reached, as far as is known; empty where it is not."""
        return "" if self._seen is None else self._seen.row.address

    async def try_take(self) -> Lease | None:
        """Take the lease where nobody has it any more; None where somebody has.

        Raises:
            ServiceError: STORE_UNAVAILABLE.
        """
        row = await self._store.read()
        self._seen = sight(self._seen, row, self._now())
        dead = bool(row.holder) and await asyncio.to_thread(self._marks.is_dead, row.holder)
        if not may_take(self._seen, self._now(), dead=dead):
            return None
        began = self._now()
        term = await self._store.take(row, self._holder, self.address, self._seconds)
        if term is None:
            return None
        self._seen = Sighting(
            LeaseRow(term, self._holder, self.address, row.beat + 1, self._seconds), began
        )
        await asyncio.to_thread(self._marks.clean)
        _LOG.info("leading from now on, in term %d", term)
        return Lease(term, began + self._seconds, self._now)

    async def acquire(self) -> Lease:
        """Return the lease once it is had."""
        poll = min(_MOST_POLL_SECONDS, self._seconds / 10)
        while True:
            try:
                lease = await self.try_take()
            except ServiceError as error:
                _LOG.warning("whether another session manager leads is not known: %s", error)
                lease = None
            if lease is not None:
                return lease
            await asyncio.sleep(poll)

    async def hold(self, lease: Lease) -> None:
        """Renew a lease until it is lost."""
        while not lease.lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds / _RENEWALS):
                    await lease.lost.wait()
            if not lease.lost.is_set():
                await self._renew(lease)

    async def release(self) -> bool:
        """Give the lease up, for another one to take at once; say whether that is written.

        Also where it was taken and nobody noticed, as by a task that was cancelled.
        """
        try:
            await self._store.release(self._holder)
        except ServiceError as error:
            _LOG.warning("the lease could not be given back, and runs out: %s", error)
            return False
        return True

    async def _renew(self, lease: Lease) -> None:
        began = self._now()
        renewing = asyncio.ensure_future(self._store.renew(lease.term))
        patience = max(lease.until - began, _SECOND_CHANCE_SECONDS)
        await asyncio.wait({renewing}, timeout=patience)
        if not renewing.done():
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            _LOG.error("the store did not take the lease's renewal in time: standing by")
            lease.end()
            return
        try:
            still = renewing.result()
        except ServiceError as error:
            if self._now() >= lease.until:
                _LOG.error("the lease has run out, and cannot be renewed: standing by (%s)", error)
                lease.end()
            else:
                _LOG.warning("the lease could not be renewed, and is tried again: %s", error)
            return
        if still:
            lease.renewed(began + self._seconds)
        else:
            _LOG.error("another session manager leads: standing by")
            lease.end()
