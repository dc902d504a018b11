"""Leads whenever this process has the lease, and tells callers where to go while it has not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

from podbay.v1 import session_manager_service_pb2 as pb
from podbay.v1.session_manager_service_pb2_grpc import SessionManagerServiceServicer
from podbay_kit.errors import ServiceError
from podbay_kit.storage import Connection
from podbay_session_manager.lease_keeper import Lease, LeaseKeeper, not_leader
from podbay_session_manager.servicer import SessionManagerServicer
from podbay_session_manager.servicer_base import Parts

__all__ = ["Leadership", "Term", "front"]

_LOG = logging.getLogger(__name__)
_PAUSE_SECONDS: Final = 2.0
# How long a call waits for a term that is about to begin here.
_BEGIN_SECONDS: Final = 10.0
# How long a caller has for the first message of a stream before it is told who leads.
_FIRST_MESSAGE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Term:
    """What leads during a term."""

    lease: Lease
    parts: Parts
    servicer: SessionManagerServicer


class Leadership:
    """Takes the lease when it can be had, and leads for as long as it is kept.

    Args:
        keeper: Deals with the lease.
        lead: Puts together what leads, and takes it apart at the end.
        on_change: Told whether this process leads.
    """

    def __init__(
        self,
        keeper: LeaseKeeper,
        lead: Callable[[Lease], AbstractAsyncContextManager[Parts]],
        on_change: Callable[[bool], None],
    ) -> None:
        self._keeper = keeper
        self._lead = lead
        self._on_change = on_change
        # The last one: whether its term is over, the database tells.
        self._lease: Lease | None = None
        self._term: Term | None = None
        # Not set while it is not known yet whether this process leads, or while a term begins.
        self._decided = asyncio.Event()
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Begin, and return when this process either leads or stands by.

        Raises:
            Exception: What `lead` raised in the first term.
        """
        self._task = asyncio.create_task(self._run(), name="leadership")
        await asyncio.shield(self._settled)

    @property
    def parts(self) -> Parts | None:
        """What leads at this moment; None while this process stands by."""
        return None if self._term is None else self._term.parts

    def stop_streams(self) -> None:
        """End the long streams of the present term."""
        if self._term is not None:
            self._term.parts.stopping.set()

    async def stop(self) -> None:
        """Lead no more, and give the lease back."""
        self._stop.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def guard(self, conn: Connection) -> None:
        """Let a writing transaction pass while this process leads, in whichever term.

        Raises:
            ServiceError: NOT_LEADER; the transaction is to be rolled back.
        """
        lease = self._lease
        if lease is None:
            raise not_leader(self._keeper.leader)
        lease.guard(conn)

    async def leading(self) -> SessionManagerServicer:
        """Return what serves callers; where a term is about to begin here, that is waited for.

        Raises:
            ServiceError: NOT_LEADER.
        """
        if not self._decided.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BEGIN_SECONDS):
                    await self._decided.wait()
        term = self._term
        if term is None or not (term.lease.valid or await term.lease.settled()):
            raise not_leader("" if term is not None else self._keeper.leader)
        return term.servicer

    async def _run(self) -> None:
        while not self._stop.is_set():
            lease = await self._first() if not self._settled.done() else await self._next()
            if lease is None:
                continue
            try:
                await self._serve_term(lease)
            except Exception as error:  # noqa: BLE001 # told, or logged and tried again
                if not self._settled.done():
                    # It never led, and the one who starts it is told why.
                    self._settled.set_exception(error)
                    return
                _LOG.exception("term %d ended by a failure", lease.term)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PAUSE_SECONDS):
                        await self._stop.wait()

    async def _first(self) -> Lease | None:
        """Look once; whoever starts this waits for it."""
        try:
            lease = await self._keeper.try_take()
        except Exception as error:  # noqa: BLE001 # told to the one who starts this
            self._settled.set_exception(error)
            self._stop.set()
            self._decided.set()
            return None
        if lease is None:
            self._decided.set()
            _LOG.info("standing by: %s leads", self._keeper.leader or "another session manager")
            self._settled.set_result(None)
        return lease

    async def _next(self) -> Lease | None:
        getting = asyncio.ensure_future(self._keeper.acquire())
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({getting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in (getting, stopped):
            task.cancel()
        await asyncio.gather(getting, stopped, return_exceptions=True)
        return getting.result() if not getting.cancelled() else None

    async def _serve_term(self, lease: Lease) -> None:
        self._lease = lease
        self._decided.clear()
        holding = asyncio.create_task(self._keeper.hold(lease), name="hold-lease")
        try:
            async with self._lead(lease) as parts:
                self._term = Term(lease, parts, SessionManagerServicer(parts))
                self._decided.set()
                self._on_change(True)
                if not self._settled.done():
                    self._settled.set_result(None)
                try:
                    await _first_of(lease.lost.wait(), self._stop.wait())
                finally:
                    self._on_change(False)
                    if lease.lost.is_set():
                        # At an end that was asked for, the calls that run are waited for first.
                        self._term = None
        finally:
            self._term = None
            self._decided.set()
            lost = lease.lost.is_set()
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)
            lease.end()
            if not lost:
                await self._keeper.release()


async def _first_of(*waits: Awaitable[Any]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _hear_first(requests: AsyncIterator[Any]) -> None:
    """Wait until a caller has sent the first message, or ends the stream, or is silent."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FIRST_MESSAGE_SECONDS):
            await anext(requests, None)


def front(leading: Callable[[], Awaitable[SessionManagerServicer]]) -> Any:
    """Return a servicer that hands each call to the one that leads at that moment.

    Args:
        leading: Returns that one; raises where this process does not lead.
    """
    service = pb.DESCRIPTOR.services_by_name["SessionManagerService"]
    methods = {
        method.name: _handed_on(leading, method.name, streams_in=method.client_streaming)
        for method in service.methods
    }
    return type("FrontServicer", (SessionManagerServiceServicer,), methods)()


def _handed_on(
    leading: Callable[[], Awaitable[SessionManagerServicer]], name: str, *, streams_in: bool
) -> Callable[[Any, Any, Any], Awaitable[Any]]:
    async def handle(_self: Any, request: Any, context: Any) -> Any:
        try:
            servicer = await leading()
        except ServiceError:
            if streams_in:
                # A caller who still writes when the stream ends may see INTERNAL instead of why it
                # ended, and so not whom to ask: https://github.com/grpc/grpc/issues/36066
                await _hear_first(request)
            raise
        return await getattr(servicer, name)(request, context)

    handle.__name__ = name
    return handle
