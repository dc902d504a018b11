"""Follows the routes of the session manager that leads, for ever, and tells how far it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import grpc

from podbay.schema.identities import SESSION_MANAGER
from podbay.v1.session_manager_service_pb2 import (
    AcknowledgeRoutesRequest,
    ReportReplicaRequest,
    ReportUsageRequest,
    WatchRoutesRequest,
    WatchRoutesResponse,
)
from podbay.v1.session_manager_service_pb2_grpc import SessionManagerServiceStub
from podbay_inference_router.failed_calls import FailedCalls, Row, message_of
from podbay_inference_router.health import ReplicaReport
from podbay_inference_router.leaders import Leaders, leader_of
from podbay_kit.service_link import ServiceLink

if TYPE_CHECKING:
    from podbay.v1.session_manager_service_pb2_grpc import SessionManagerServiceAsyncStub
    from podbay_kit.tls_files import LiveTls

__all__ = ["CHANNEL_OPTIONS", "RouteWatcher", "pause_after"]

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.1
# Whoever starts anew meanwhile has no routes until this is over.
_LAST_PAUSE: Final = 0.25
_ACKNOWLEDGE_SECONDS: Final = 5.0
_REPORT_PAUSE: Final = 1.0
_USAGE_SECONDS: Final = 1.0
_AWAY: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_MOST_REPORTS: Final = 1000
_DETAIL_BYTES: Final = 1024
# Three signs of life that did not come.
_SILENCE_SECONDS: Final = 6.0
CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Words are short: to find out by pings how much is best under way would double what is sent.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # The "minimum" is how long one connection may take to come about: on a busy machine, too.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", int(_LAST_PAUSE * 1000)),
)
"""The options of channels to session managers."""


class _PastTermError(Exception):
    """A session manager does not know yet that another one leads."""


def pause_after(failures: int) -> float:
    """Give the seconds before the next try after so many failures in a row."""
    return float(min(_LAST_PAUSE, _FIRST_PAUSE * 2 ** min(max(failures - 1, 0), 10)))


class RouteWatcher:
    """Watches `WatchRoutes`, and watches again whenever the stream ends.

    Args:
        endpoint: The session manager's "host:port"; with a certificate that for services. Of
            several all, by commas.
        token: The token of the services; None where there is a certificate.
        name: Who watches, for the session manager's log.
        on_message: Takes each message.
        certificate: The router's certificate; None for plain text.
        running: Gives how many calls of each account run here.
        failed_calls: Has the calls that failed here and were not told of yet, by the loop's clock;
            None where nobody counts them.
    """

    def __init__(
        self,
        endpoint: str,
        token: str | None,
        name: str,
        on_message: Callable[[WatchRoutesResponse], None],
        *,
        certificate: LiveTls | None = None,
        running: Callable[[], Mapping[str, int]] = dict,
        failed_calls: FailedCalls | None = None,
    ) -> None:
        self._failed_calls = failed_calls
        # Those that are being told, under the number of the list.
        self._failed: Sequence[Row] = ()
        self._failed_number = 0
        self._running = running
        self._leaders = Leaders(endpoint)
        self._term = 0
        self._token = token
        self._certificate = certificate
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._request = WatchRoutesRequest(router=name)
        self._on_message = on_message
        self._failures = 0
        self.away = ""
        """Why the session manager tells no routes now; empty while it does."""
        # How far this router is in the watch that runs.
        self._watch_id = ""
        self._applied = 0
        self._news = asyncio.Event()
        # The last report of each replica that was not told yet.
        self._reports: dict[tuple[str, str], ReportReplicaRequest] = {}
        self._reported = asyncio.Event()

    def report(self, report: ReplicaReport) -> None:
        """Tell the session manager how the calls to a replica go, as soon as it can be reached."""
        key = (report.session_id, report.replica_id)
        self._reports[key] = ReportReplicaRequest(
            session_id=report.session_id,
            replica_id=report.replica_id,
            failures=report.failures,
            http_status=report.http_status,
            detail=report.detail.encode()[:_DETAIL_BYTES].decode(errors="ignore"),
            set_aside=report.set_aside,
        )
        if len(self._reports) > _MOST_REPORTS:
            del self._reports[next(iter(self._reports))]
        self._reported.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            endpoint = self._leaders.endpoint
            link = ServiceLink(
                endpoint,
                SESSION_MANAGER,
                SessionManagerServiceStub,
                options=CHANNEL_OPTIONS,
                certificate=self._certificate,
                service_token=self._token,
            )
            self._metadata = link.metadata
            try:
                while self._leaders.endpoint == endpoint:
                    await self._follow(link, endpoint)
            finally:
                await link.close()

    async def _follow(self, link: ServiceLink, endpoint: str) -> None:
        """Watch once, and pause after the end."""
        stub: SessionManagerServiceAsyncStub = link.stub
        telling = [
            asyncio.create_task(self._acknowledge(stub), name="acknowledge-routes"),
            asyncio.create_task(self._tell_reports(stub), name="report-replicas"),
            asyncio.create_task(self._tell_usage(stub), name="report-usage"),
        ]
        told = False
        try:
            await self._watch(stub, endpoint)
        except grpc.aio.AioRpcError as error:
            why = link.failed(error)
            told = self._note_failure(error, endpoint)
            self.away = "" if told else why
        except (TimeoutError, _PastTermError) as error:
            self.away = str(error)
            _LOG.warning("the session manager at %s is left: %s", endpoint, error)
        finally:
            for task in telling:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._failures += 1
        if not told:
            self._leaders.failed(endpoint)
        # Routers that lost the same session manager shall not come back all at once.
        jitter = 1 + 0.2 * random.random()  # noqa: S311 # no secret depends on it
        # All have their turn before the pauses grow.
        await asyncio.sleep(jitter * pause_after(1 + self._failures // self._leaders.count))

    async def _watch(self, stub: SessionManagerServiceAsyncStub, endpoint: str) -> None:
        # One that is stopped as it is keeps its connections. With no other to go to, it is waited
        # for.
        patience = _SILENCE_SECONDS if self._leaders.count > 1 else None
        messages = stub.WatchRoutes(self._request, metadata=self._metadata)
        try:
            while True:
                async with asyncio.timeout(patience):
                    message = await messages.read()
                if not isinstance(message, WatchRoutesResponse):
                    # The end; a status that is an error was raised.
                    return
                self._take(message, endpoint)
        except TimeoutError:
            raise TimeoutError(f"it was silent for {_SILENCE_SECONDS:g} s") from None
        finally:
            messages.cancel()

    def _take(self, message: WatchRoutesResponse, endpoint: str) -> None:
        if message.watch_id and message.term < self._term:
            raise _PastTermError(
                f"it leads in term {message.term}, and term {self._term} has begun elsewhere"
            )
        self._term = max(self._term, message.term)
        if self._failures:
            _LOG.info("the session manager at %s tells routes", endpoint)
            self._failures = 0
        self.away = ""
        self._on_message(message)
        if message.watch_id:
            self._watch_id = message.watch_id
        self._applied = message.revision
        self._news.set()

    async def _acknowledge(self, stub: SessionManagerServiceAsyncStub) -> None:
        """Tell the newest revision, one after the other, for as long as the watch runs."""
        self._watch_id = ""
        self._news.clear()
        told = ("", 0)
        while True:
            await self._news.wait()
            self._news.clear()
            # Most messages are signs of life, and bring nothing new to acknowledge.
            if not self._watch_id or (self._watch_id, self._applied) == told:
                continue
            request = AcknowledgeRoutesRequest(watch_id=self._watch_id, revision=self._applied)
            try:
                await stub.AcknowledgeRoutes(
                    request, metadata=self._metadata, timeout=_ACKNOWLEDGE_SECONDS
                )
            except grpc.aio.AioRpcError as error:
                # A session manager without a sign of this router reports sessions as ready later,
                # so it is told again, whether or not anything changes.
                _LOG.warning("routes cannot be acknowledged (%s)", error.code().name)
                self._news.set()
                await asyncio.sleep(pause_after(1))
            else:
                told = (request.watch_id, request.revision)

    async def _tell_reports(self, stub: SessionManagerServiceAsyncStub) -> None:
        """Tell what is to be told of replicas, for as long as the watch runs."""
        while True:
            while self._reports:
                key, request = next(iter(self._reports.items()))
                try:
                    await stub.ReportReplica(
                        request, metadata=self._metadata, timeout=_ACKNOWLEDGE_SECONDS
                    )
                except grpc.aio.AioRpcError as error:
                    _LOG.warning("a replica cannot be reported (%s)", error.code().name)
                    if error.code() not in _AWAY:
                        # It would not be taken the next time either.
                        self._reports.pop(key, None)
                    await asyncio.sleep(_REPORT_PAUSE)
                else:
                    # Unless there is newer news of it by now.
                    if self._reports.get(key) is request:
                        del self._reports[key]
            self._reported.clear()
            await self._reported.wait()

    async def _tell_usage(self, stub: SessionManagerServiceAsyncStub) -> None:
        """Tell how many calls run, and which failed, for as long as the watch runs."""
        told: tuple[str, Mapping[str, int]] = ("", {})
        while True:
            await asyncio.sleep(_USAGE_SECONDS)
            now = (self._watch_id, self._running())
            if self._failed_calls is not None and self._failed_calls.any and not self._failed:
                self._failed = self._failed_calls.take()
                self._failed_number += 1
            unchanged = now == told or (not now[1] and not told[1])
            if not now[0] or (unchanged and not self._failed):
                continue
            time = asyncio.get_running_loop().time()
            request = ReportUsageRequest(
                watch_id=now[0],
                requests_in_flight=now[1],
                failed_calls=[message_of(row, time) for row in self._failed],
                failed_calls_number=self._failed_number if self._failed else 0,
            )
            try:
                await stub.ReportUsage(
                    request, metadata=self._metadata, timeout=_ACKNOWLEDGE_SECONDS
                )
            except grpc.aio.AioRpcError as error:
                _LOG.debug("the usage cannot be told (%s)", error.code().name)
                if error.code() not in _AWAY:
                    # It would not be taken the next time either.
                    self._failed = ()
            else:
                told = now
                self._failed = ()

    def _note_failure(self, error: grpc.aio.AioRpcError, endpoint: str) -> bool:
        """Log a failure; say whether it told who leads."""
        leader = leader_of(error)
        if leader and self._leaders.follow(leader):
            return True
        if self._failures == 0:
            _LOG.warning(
                "the session manager at %s does not tell routes (%s: %s): serving with those "
                "known, and trying again",
                endpoint,
                error.code().name,
                error.details(),
            )
        return False
