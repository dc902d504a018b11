"""The RPCs for routers."""

# ruff: noqa: ARG002 - every method of a servicer is given the request and its context.

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Final

from podbay.v1 import session_manager_service_pb2 as pb
from podbay_session_manager.servicer_base import Context, ServicerBase, stopping_error

__all__ = ["RouteServicer"]

_LOG = logging.getLogger(__name__)
_ALIVE_SECONDS: Final = 5.0


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
        """Note how many calls of each account run at a router's worker."""
        self._parts.state.usage.report(request.watch_id, request.requests_in_flight)
        return pb.ReportUsageResponse()

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
