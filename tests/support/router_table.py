"""A router's table and dispatcher without sockets and without time of their own."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from podbay.v1.errors_pb2 import CallError
from podbay.v1.session_manager_service_pb2 import (
    AccountLimit,
    Route,
    WatchRoutesResponse,
)
from podbay_inference_router.calls import Call
from podbay_inference_router.choosing import Leases, Shares
from podbay_inference_router.dispatch import Dispatcher
from podbay_inference_router.framing import Piece
from podbay_inference_router.health import ReplicaReport
from podbay_inference_router.meters import Meters
from podbay_inference_router.ports import Sendable
from podbay_inference_router.requests import JSON_TYPE, Request
from podbay_inference_router.settings import Settings
from podbay_inference_router.table import Endpoint, RouteTable


class FakeTimer:
    """A timer that a test may look at."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeScheduler:
    """Time that moves when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> FakeTimer:
        timer = FakeTimer(lambda: callback(*args))
        heapq.heappush(self._timers, (self.now + delay, next(self._numbers), timer))
        return timer

    @property
    def pending(self) -> int:
        return sum(timer.callback is not None for _, _, timer in self._timers)

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            self.now, _, timer = heapq.heappop(self._timers)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
        self.now = until


class FakeFlight:
    """A request at a fake endpoint, which a test moves on."""

    def __init__(self, call: Sendable, upstream: FakeUpstream) -> None:
        self.call = call
        self.upstream = upstream
        self.connected = False
        self.answering = False
        self.paused = False

    def abort(self) -> None:
        self.upstream.flights.remove(self)
        self.upstream.aborted += 1

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def end(self) -> None:
        self.upstream.flights.remove(self)

    def connect(self) -> None:
        self.call.on_connected()
        self.connected = True
        self.call.sent = True

    def answer(self, body: bytes = b"{}", status: int = 200) -> None:
        """Give a whole answer."""
        if not self.connected:
            self.connect()
        self.call.on_head(status, "application/json", "", "")
        self.call.on_body(body)
        if self in self.upstream.flights:  # the call may have given up
            self.end()
            self.call.on_end()

    def answer_json(self, body: bytes = b"{}") -> None:
        """Give a whole good answer that comes at once."""
        if not self.connected:
            self.connect()
        self.end()
        self.call.on_json(body)

    def refuse(self) -> None:
        """Refuse the connection."""
        self.end()
        self.call.on_connect_failed("the connection was refused")

    def lack_files(self) -> None:
        """Find that no more files can be opened."""
        self.end()
        self.call.on_no_files(128)

    def lose(self) -> None:
        """Break the connection."""
        self.end()
        self.call.on_lost(answering=self.answering)


class FakeUpstream:
    """The connections of a fake endpoint."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.flights: list[FakeFlight] = []
        self.aborted = 0
        self.closed = False

    def send(self, call: Sendable, path: str, content_type: str, body: bytes) -> None:
        flight = FakeFlight(call, self)
        call.flight = flight
        self.flights.append(flight)

    def close(self) -> None:
        self.closed = True


class ListSink:
    """Keeps what a call says."""

    def __init__(self) -> None:
        self.paused = False
        self.pieces: list[Piece] = []
        self.ends: list[CallError | None] = []

    def holds(self, call: Call) -> bool:
        return self.paused

    def on_pieces(self, call: Call, pieces: list[Piece]) -> None:
        assert not self.ends
        self.pieces += pieces

    def on_done(self, call: Call, pieces: list[Piece], error: CallError | None) -> None:
        self.pieces += pieces
        self.ends.append(error)

    @property
    def reason(self) -> int | None:
        """The reason of the failure: 0 for a success, None while the call runs."""
        if not self.ends:
            return None
        assert len(self.ends) == 1
        return self.ends[0].reason if self.ends[0] is not None else 0


class FakeRouter:
    """A dispatcher with its table, on fake endpoints and fake time."""

    def __init__(
        self,
        settings: Settings | None = None,
        leases: Leases | None = None,
        shares: Callable[[FakeRouter], Shares] | None = None,
        rng: Callable[[], float] = lambda: 0.99,
    ) -> None:
        self.settings = settings or Settings(queue_length=4, queue_timeout=10, settle_seconds=1)
        self.scheduler = FakeScheduler()
        self.upstreams: list[FakeUpstream] = []
        self.table = RouteTable(self._connect, self.settings)
        self.wall = 5000.0
        self.reports: list[ReplicaReport] = []
        self.meters = Meters()
        self.dispatcher = Dispatcher(
            self.table,
            self.settings,
            self.scheduler,
            rng,
            lambda: self.wall,
            self.reports.append,
            self.meters,
            leases=leases,
            shares=None if shares is None else shares(self),
        )
        self.apply(snapshot=True)

    def _connect(self, host: str, port: int) -> FakeUpstream:
        upstream = FakeUpstream(host, port)
        self.upstreams.append(upstream)
        return upstream

    def apply(
        self,
        *routes: Route,
        snapshot: bool = False,
        removed: tuple[str, ...] = (),
        limits: Mapping[str, int | None] | None = None,
    ) -> None:
        message = WatchRoutesResponse(
            routes=routes,
            snapshot=snapshot,
            removed_sessions=removed,
            account_limits=[
                AccountLimit(account=account, requests_in_flight=limit)
                for account, limit in (limits or {}).items()
            ],
        )
        self.dispatcher.on_changes(self.table.apply(message, self.scheduler.now))

    def call(
        self,
        session_id: str = "s",
        *,
        timeout: float = 60.0,
        epoch: int = 1,
        stream: bool = False,
        sink: ListSink | None = None,
        account: str = "acct",
        affinity: str = "",
    ) -> tuple[Call, ListSink]:
        sink = sink or ListSink()
        call = Call(
            self.dispatcher,
            self.table.expect(session_id),
            sink,
            1,
            Request("/x", JSON_TYPE, b"{}", wants_values=False),
            self.dispatcher.account(account),
            epoch=epoch,
            stream=stream,
            affinity=affinity,
        )
        self.dispatcher.submit(call, timeout)
        return call, sink

    def endpoint(self, index: int = 0, session_id: str = "s") -> Endpoint:
        session = self.table.find(session_id)
        assert session is not None
        return session.endpoints[index]

    def flight(self, port: int) -> FakeFlight:
        """Return the oldest request at a port."""
        for upstream in self.upstreams:
            if upstream.port == port and upstream.flights:
                return upstream.flights[0]
        raise AssertionError(f"nothing runs at port {port}")

    @property
    def running(self) -> int:
        return sum(len(upstream.flights) for upstream in self.upstreams)
