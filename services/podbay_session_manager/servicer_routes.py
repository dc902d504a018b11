"""The RPCs for routers."""

# ruff: noqa: ARG002 - every method of a servicer is given the request and its context.

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from podbay.v1 import session_manager_service_pb2 as pb
from podbay_kit.errors import invalid
from podbay_session_manager.servicer_base import Context, ServicerBase, stopping_error
from podbay_session_manager.share_desk import ShareDesk

__all__ = ["RouteServicer"]

_LOG = logging.getLogger(__name__)
_ID_LENGTH: Final = 64
# Routers that know of several session managers take a longer silence for the end of this one.
_ALIVE_SECONDS: Final = 2.0


@dataclass(slots=True)
class _Heard:
    """Who speaks on a stream, and the number of what came last."""

    router: str = ""
    worker: str = ""
    number: int = 0


async def _hear(
    requests: AsyncIterator[pb.ShareLimitsRequest], desk: ShareDesk, heard: _Heard
) -> None:
    async for request in requests:
        for field, value in (("routerId", request.router_id), ("workerId", request.worker_id)):
            if not 0 < len(value) <= _ID_LENGTH:
                raise invalid(field, f"must be there, and have at most {_ID_LENGTH} characters")
        heard.router, heard.worker = request.router_id, request.worker_id
        await desk.hear(request, heard)
        heard.number = request.number


class RouteServicer(ServicerBase):
    """The part of the SessionManagerService that serves routers."""

    async def WatchRoutes(self, request: pb.WatchRoutesRequest, context: Context) -> None:
        """Send a snapshot of all routes and then every change."""
        state = self._parts.state
        table, acks = state.announcer.table, state.announcer.acks
        watch_id = uuid.uuid4().hex
        acks.open(watch_id, self._parts.clock.monotonic())
        state.usage.open(watch_id)
        _LOG.info("router %.64s watches the routes", request.router)
        try:
            changes = table.snapshot()
            await context.write(
                pb.WatchRoutesResponse(
                    revision=changes.revision,
                    snapshot=True,
                    routes=changes.routes,
                    keys=changes.keys,
                    account_limits=changes.limits,
                    watch_id=watch_id,
                    term=self._parts.term,
                )
            )
            revision = changes.revision
            while True:
                await self._wait(revision)
                following = table.since(revision)
                if following is None:
                    await context.write(pb.WatchRoutesResponse(revision=revision))
                    continue
                revision = following.revision
                await context.write(
                    pb.WatchRoutesResponse(
                        revision=revision,
                        snapshot=following.snapshot,
                        routes=following.routes,
                        removed_sessions=following.removed,
                        keys=following.keys,
                        account_limits=following.limits,
                    )
                )
        finally:
            acks.close(watch_id)
            state.usage.close(watch_id)
            if state.settle():
                self._parts.reconciler.hint()

    async def AcknowledgeRoutes(
        self, request: pb.AcknowledgeRoutesRequest, context: Context
    ) -> pb.AcknowledgeRoutesResponse:
        """Note how far a router is."""
        state = self._parts.state
        state.announcer.acks.acknowledge(
            request.watch_id,
            request.revision,
            state.announcer.table.revision,
            self._parts.clock.monotonic(),
        )
        if state.settle():
            self._parts.reconciler.hint()
        return pb.AcknowledgeRoutesResponse()

    async def ReportReplica(
        self, request: pb.ReportReplicaRequest, context: Context
    ) -> pb.ReportReplicaResponse:
        """Note how the calls to a replica go, for its session's status."""
        state = self._parts.state
        known = state.replica(request.session_id, request.replica_id)
        if known is None or known.phase.ended:
            return pb.ReportReplicaResponse()
        changed = state.reports.take(request, state.clock.monotonic())
        if request.failures > 0:
            # It may have failed for long enough.
            self._parts.reconciler.hint()
        if changed:
            if request.failures > 0:
                _LOG.warning(
                    "replica %s of session %s fails: %d calls in a row, HTTP status %d",
                    known.id,
                    known.session_id,
                    request.failures,
                    request.http_status,
                )
            else:
                _LOG.info("replica %s of session %s has recovered", known.id, known.session_id)
            state.notify(known.session_id)
        return pb.ReportReplicaResponse()

    async def ReportUsage(
        self, request: pb.ReportUsageRequest, context: Context
    ) -> pb.ReportUsageResponse:
        """Note how many calls of each account run at a router's worker, and which failed."""
        state = self._parts.state
        state.usage.report(request.watch_id, request.requests_in_flight)
        if state.usage.is_new(request.watch_id, request.failed_calls_number):
            now, monotonic = state.clock.now().timestamp(), state.clock.monotonic()
            for told in request.failed_calls:
                state.call_failures.take(told, now, monotonic)
            for session_id in {told.session_id for told in request.failed_calls}:
                state.notify(session_id)
        return pb.ReportUsageResponse()

    async def ShareLimits(
        self, request_iterator: AsyncIterator[pb.ShareLimitsRequest], context: Context
    ) -> None:
        """Take what a process of a router has and wants, and tell its shares."""
        desk = self._parts.shares
        heard = _Heard()
        reading = asyncio.ensure_future(_hear(request_iterator, desk, heard))
        stopping = asyncio.ensure_future(self._parts.stopping.wait())
        last: pb.ShareLimitsResponse | None = None
        try:
            while not reading.done():
                news = desk.news
                if heard.number:
                    response = desk.response(heard.router, heard.worker, heard.number, last)
                    if response is not None:
                        last = response
                        await context.write(response)
                        continue
                waiting = asyncio.ensure_future(news.wait())
                try:
                    await asyncio.wait(
                        {reading, stopping, waiting}, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    waiting.cancel()
                if stopping.done():
                    raise stopping_error()
            await reading
        finally:
            if heard.worker:
                desk.lose(heard.worker, heard)
            reading.cancel()
            stopping.cancel()
            await asyncio.gather(reading, stopping, return_exceptions=True)

    async def _wait(self, revision: int) -> None:
        """Wait for a change, or until a sign of life is due.

        Raises:
            ServiceError: SERVICE_STOPPING.
        """
        stopping = self._parts.stopping
        waiters = [
            asyncio.ensure_future(self._parts.state.announcer.table.changed(revision)),
            asyncio.ensure_future(stopping.wait()),
        ]
        try:
            await asyncio.wait(waiters, timeout=_ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)
        if stopping.is_set():
            raise stopping_error()
