"""The RPCs that say how a session is, and what its replicas wrote."""

# ruff: noqa: ARG002 - every method of a servicer is given the request and its context.

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from podbay.v1 import errors_pb2, inference_session_pb2
from podbay.v1 import session_manager_service_pb2 as pb
from podbay_kit.audit import shown_id
from podbay_kit.errors import ServiceError, invalid
from podbay_session_manager.drivers.contract import DriverUnreachableError
from podbay_session_manager.logs import Line, LineReader
from podbay_session_manager.machine import ReplicaPhase, SessionState
from podbay_session_manager.records import ReplicaRecord
from podbay_session_manager.servicer_base import Context, ServicerBase, stopping_error
from podbay_session_manager.status import session_status
from podbay_session_manager.texts import progress_text

__all__ = ["StatusServicer"]

_LINES_A_MESSAGE: Final = 500
_FOLLOW_SECONDS: Final = 0.2
_PROGRESS_SECONDS: Final = 1.0
_STARTING: Final = inference_session_pb2.REPLICA_PHASE_STARTING


class StatusServicer(ServicerBase):
    """The part of the SessionManagerService that serves statuses and logs."""

    async def GetInferenceSessionStatus(
        self, request: pb.GetInferenceSessionStatusRequest, context: Context
    ) -> pb.GetInferenceSessionStatusResponse:
        """Say whether a session takes calls, and if not, why."""
        await self._session_for(request.id)
        status, _ = await self._status(request.id)
        return pb.GetInferenceSessionStatusResponse(status=status)

    async def WatchInferenceSessionStatus(
        self, request: pb.WatchInferenceSessionStatusRequest, context: Context
    ) -> None:
        """Send the status at once and whenever it changes, until nothing of the session is left."""
        await self._session_for(request.id)
        sent: inference_session_pb2.InferenceSessionStatus | None = None
        with self._parts.state.watch(request.id) as news:
            while True:
                news.clear()
                status, ended = await self._status(request.id)
                if sent is None or not _same(sent, status):
                    await context.write(pb.WatchInferenceSessionStatusResponse(status=status))
                    sent = status
                if ended:
                    return
                # How far a start is nobody tells; it is looked up.
                starting = any(one.phase == _STARTING for one in status.replicas)
                await self._news(news, _PROGRESS_SECONDS if starting else None)

    async def StreamInferenceSessionLogs(
        self, request: pb.StreamInferenceSessionLogsRequest, context: Context
    ) -> None:
        """Send the lines that replicas wrote."""
        if request.HasField("tail") and request.tail < 0:
            raise invalid("tail", "must not be negative")
        positions = _positions(request)
        await self._session_for(request.id)
        readers: dict[str, LineReader] = {}
        finished: set[str] = set()
        with self._parts.state.watch(request.id) as news:
            while True:
                news.clear()
                session, replicas = await self._parts.state.find(request.id)
                over = session.state is SessionState.ENDED or not request.follow
                for replica in self._selected(request, replicas):
                    if replica.id in finished:
                        continue
                    final = over or replica.phase.ended
                    if replica.id not in readers:
                        reader = self._reader(replica)
                        readers[replica.id] = reader
                        await self._begin(request, context, replica, reader, positions)
                    await _send_log(context, replica, readers[replica.id], final=final)
                    if final:
                        finished.add(replica.id)
                if over:
                    return
                await self._news(news, _FOLLOW_SECONDS)

    async def _status(
        self, session_id: str
    ) -> tuple[inference_session_pb2.InferenceSessionStatus, bool]:
        state = self._parts.state
        session, replicas = await state.find(session_id)
        status = session_status(
            session,
            replicas.values(),
            is_ready=state.announcer.is_ready,
            revision=state.revision,
            failing=state.reports.failing,
            doing=self._doing,
            call_failures=state.call_failures.of(session_id, state.clock.monotonic()),
        )
        return status, session.state is SessionState.ENDED

    def _doing(self, replica: ReplicaRecord) -> str:
        """Say how far the start of a replica is; "" where none is under way, or takes no time."""
        driver = self._parts.drivers.get(replica.driver)
        if replica.phase is not ReplicaPhase.STARTING or driver is None:
            return ""
        return progress_text(driver.progress(replica.id))

    async def _news(self, news: asyncio.Event, seconds: float | None = None) -> None:
        """Wait for news, at most some seconds.

        Raises:
            ServiceError: SERVICE_STOPPING.
        """
        stopping = self._parts.stopping
        waiters = [asyncio.ensure_future(news.wait()), asyncio.ensure_future(stopping.wait())]
        try:
            await asyncio.wait(waiters, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)
        if stopping.is_set():
            raise stopping_error()

    def _selected(
        self, request: pb.StreamInferenceSessionLogsRequest, replicas: Mapping[str, ReplicaRecord]
    ) -> list[ReplicaRecord]:
        if request.HasField("replica_id"):
            replica = replicas.get(request.replica_id)
            if replica is None:
                raise ServiceError(
                    errors_pb2.ERROR_REASON_REPLICA_NOT_FOUND,
                    f"The session has no replica {shown_id(request.replica_id)[:64]!r}, or it "
                    "ended long ago. The session's status lists its replicas: podbay session "
                    "status.",
                )
            return [replica]
        return sorted(replicas.values(), key=lambda r: (r.created_at, r.index, r.attempt))

    def _reader(self, replica: ReplicaRecord) -> LineReader:
        driver = self._parts.drivers.get(replica.driver)
        if driver is None:
            raise _unreadable(replica, "it is not on")
        return LineReader(driver, replica.id)

    async def _begin(
        self,
        request: pb.StreamInferenceSessionLogsRequest,
        context: Context,
        replica: ReplicaRecord,
        reader: LineReader,
        positions: Mapping[str, int],
    ) -> None:
        """Go to where the lines of a replica begin, and tell that where nobody else could."""
        if replica.id in positions:
            reader.go_to(positions[replica.id])
        elif request.HasField("tail"):
            try:
                await reader.skip_to_tail(request.tail)
            except DriverUnreachableError as error:
                raise _unreadable(replica, str(error)) from error
            position = inference_session_pb2.LogPosition(
                replica_id=replica.id, offset=reader.position
            )
            await context.write(pb.StreamInferenceSessionLogsResponse(positions=[position]))


def _positions(request: pb.StreamInferenceSessionLogsRequest) -> dict[str, int]:
    for index, position in enumerate(request.positions):
        if position.offset < 0:
            raise invalid(f"positions.{index}.offset", "must not be negative")
    return {position.replica_id: position.offset for position in request.positions}


async def _send_log(
    context: Context, replica: ReplicaRecord, reader: LineReader, *, final: bool
) -> None:
    """Send the lines that are there now."""
    try:
        while lines := await reader.read(final=final):
            await _send_lines(context, replica.id, lines)
    except DriverUnreachableError as error:
        raise _unreadable(replica, str(error)) from error


def _unreadable(replica: ReplicaRecord, why: str) -> ServiceError:
    return ServiceError(
        errors_pb2.ERROR_REASON_DEPENDENCY_UNAVAILABLE,
        f"The log of replica {replica.id} cannot be read now: it is kept by the driver "
        f"{replica.driver!r}, and {why}.",
        retry_after=1.0,
        metadata={"replica": replica.id},
    )


async def _send_lines(context: Context, replica_id: str, lines: list[Line]) -> None:
    for start in range(0, len(lines), _LINES_A_MESSAGE):
        await context.write(
            pb.StreamInferenceSessionLogsResponse(
                lines=[
                    _line_message(replica_id, line)
                    for line in lines[start : start + _LINES_A_MESSAGE]
                ]
            )
        )


def _line_message(replica_id: str, line: Line) -> inference_session_pb2.LogLine:
    message = inference_session_pb2.LogLine(
        replica_id=replica_id, text=line.text, offset=line.offset
    )
    if line.time is not None:
        message.time.FromMicroseconds(round(line.time * 1_000_000))
    return message


def _same(
    before: inference_session_pb2.InferenceSessionStatus,
    after: inference_session_pb2.InferenceSessionStatus,
) -> bool:
    """Say whether two statuses differ in nothing but their revision."""
    other = inference_session_pb2.InferenceSessionStatus()
    other.CopyFrom(after)
    other.revision = before.revision
    return other == before
