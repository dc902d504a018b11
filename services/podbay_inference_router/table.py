"""The routes: which sessions there are, where their replicas answer, what runs there. Pure.

The table is what `WatchRoutes` said last. It outlives the session manager: nothing in it is dropped
because nobody speaks.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from podbay.v1 import errors_pb2
from podbay.v1.session_manager_service_pb2 import (
    ROUTE_STATE_ENDED,
    Route,
    RouteEndpoint,
    WatchRoutesResponse,
)
from podbay_inference_router.ports import Upstream
from podbay_inference_router.queueing import WaitingLine

__all__ = ["Changes", "Endpoint", "RouteTable", "SessionRoute"]


class Endpoint:
    """A replica that takes calls, and what this worker has running there.

    Attributes:
        replica_id: The replica.
        host: Its host.
        port: Its port.
        outstanding: Calls that were given to it and are not finished. Exact.
        gone: Whether the table no longer has it; what runs there goes on.
        failures: How many connects failed in a row.
        down_until: Until when no call is tried after a failed connect, on the scheduler's clock.
        probing: Whether a call is trying it after failed connects.
        upstream: Its connections.
    """

    __slots__ = (
        "down_until",
        "failures",
        "gone",
        "host",
        "outstanding",
        "port",
        "probing",
        "replica_id",
        "upstream",
    )

    def __init__(self, replica_id: str, host: str, port: int, upstream: Upstream) -> None:
        self.replica_id = replica_id
        self.host = host
        self.port = port
        self.upstream = upstream
        self.outstanding = 0
        self.gone = False
        self.failures = 0
        self.down_until = 0.0
        self.probing = False


class SessionRoute:
    """A session as the router knows it.

    Attributes:
        session_id: The session.
        known: False for a session that the session manager has not told of (yet).
        ended: Why it ended, as an ErrorReason; 0 while it lives.
        epoch: Tokens of earlier epochs are refused.
        expires: When it ends by itself, in seconds since 1970; 0 for never.
        message: Why it is not ready or has ended, for people.
        evidence: The same in parts.
        endpoints: The replicas that take calls.
        limit: The most calls that this worker may have at one of them.
        safe_to_retry: Whether a call may be sent again although a replica may have seen it.
        queue_timeout: Seconds that a call may wait; None for the router's setting.
        was_ready_at: When it last had an endpoint, on the scheduler's clock; None for never.
        waiting: The calls that wait.
        pumping: Whether the waiting calls are being looked at just now.
        probe: The timer after which an endpoint that was down is tried, where calls wait for it.
    """

    __slots__ = (
        "ended",
        "endpoints",
        "epoch",
        "evidence",
        "expires",
        "known",
        "limit",
        "message",
        "probe",
        "pumping",
        "queue_timeout",
        "safe_to_retry",
        "session_id",
        "waiting",
        "was_ready_at",
    )

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.known = False
        self.ended: errors_pb2.ErrorReason.ValueType = errors_pb2.ERROR_REASON_UNSPECIFIED
        self.epoch = 0
        self.expires = 0.0
        self.message = ""
        self.evidence: Mapping[str, str] = {}
        self.endpoints: list[Endpoint] = []
        self.limit = 1
        self.safe_to_retry = False
        self.queue_timeout: float | None = None
        self.was_ready_at: float | None = None
        self.waiting: WaitingLine[Any] = WaitingLine()
        self.pumping = False
        self.probe: object | None = None

    def seconds_since_ready(self, now: float) -> float | None:
        """Tell how long the session has had no endpoint: 0 while it has, None if it never had."""
        if self.endpoints:
            return 0.0
        if self.was_ready_at is None:
            return None
        return max(1e-9, now - self.was_ready_at)  # 0 would say that it has one


class Changes:
    """What a message changed.

    Attributes:
        sessions: Sessions that are new or changed.
        removed: Sessions that are gone.
        keys: Whether the keys were told anew.
    """

    __slots__ = ("keys", "removed", "sessions")

    def __init__(self) -> None:
        self.sessions: list[SessionRoute] = []
        self.removed: list[SessionRoute] = []
        self.keys = False


class RouteTable:
    """All sessions, as the session manager told last.

    Args:
        connect: Makes the connections of a new endpoint out of its host and port.
        share_of: Gives this worker's limit out of a route's `max_concurrency`.
    """

    def __init__(
        self, connect: Callable[[str, int], Upstream], share_of: Callable[[int], int]
    ) -> None:
        self._connect = connect
        self._share_of = share_of
        self._sessions: dict[str, SessionRoute] = {}
        self.keys: dict[str, bytes] = {}
        self.revision = 0
        self.synced = False
        """Whether a snapshot has come since the start."""

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, session_id: str) -> SessionRoute | None:
        """Return a session, or None."""
        return self._sessions.get(session_id)

    def expect(self, session_id: str) -> SessionRoute:
        """Return a session; one that was not told of yet gets an entry in which calls can wait."""
        session = self._sessions.get(session_id)
        if session is None:
            session = self._sessions[session_id] = SessionRoute(session_id)
        return session

    def waiting_sessions(self) -> list[SessionRoute]:
        """Return the sessions in which calls wait."""
        return [session for session in self._sessions.values() if session.waiting]

    def forget_unknown(self, session: SessionRoute) -> None:
        """Drop the entry of a session that was never told of, once nothing waits in it."""
        name = session.session_id
        if not session.known and not session.waiting and self._sessions.get(name) is session:
            del self._sessions[name]

    def apply(self, message: WatchRoutesResponse, now: float) -> Changes:
        """Take a snapshot or a change.

        Args:
            message: What the session manager sent.
            now: The time on the scheduler's clock.

        Returns:
            What changed, so that waiting calls can be looked at.
        """
        changes = Changes()
        if message.keys:
            self.keys = {key.kid: key.ed25519_public_key for key in message.keys}
            changes.keys = True
        removed: Iterable[str] = message.removed_sessions
        if message.snapshot:
            told = {route.session_id for route in message.routes}
            removed = [
                session_id
                for session_id, session in self._sessions.items()
                if session.known and session_id not in told
            ]
            self.synced = True
        for session_id in removed:
            session = self._sessions.get(session_id)
            if session is not None and session.known:
                del self._sessions[session_id]
                self._update_endpoints(session, (), now)
                changes.removed.append(session)
        for route in message.routes:
            session = self.expect(route.session_id)
            self._update(session, route, now)
            changes.sessions.append(session)
        self.revision = message.revision
        return changes

    def _update(self, session: SessionRoute, route: Route, now: float) -> None:
        session.known = True
        session.epoch = route.epoch
        session.message = route.message
        session.evidence = dict(route.evidence)
        session.limit = self._share_of(route.max_concurrency)
        session.safe_to_retry = route.safe_to_retry
        session.expires = (
            route.expires.seconds + route.expires.nanos * 1e-9 if route.HasField("expires") else 0.0
        )
        session.queue_timeout = (
            route.queue_timeout.seconds + route.queue_timeout.nanos * 1e-9
            if route.HasField("queue_timeout")
            else None
        )
        if route.state == ROUTE_STATE_ENDED:
            session.ended = route.ended_reason or errors_pb2.ERROR_REASON_SESSION_TERMINATED
            self._update_endpoints(session, (), now)
        else:
            session.ended = errors_pb2.ERROR_REASON_UNSPECIFIED
            self._update_endpoints(session, route.endpoints, now)

    def _update_endpoints(
        self, session: SessionRoute, told: Iterable[RouteEndpoint], now: float
    ) -> None:
        """Keep the endpoints that stay, with what they have running; close those that go."""
        before = {(item.replica_id, item.host, item.port): item for item in session.endpoints}
        after: dict[tuple[str, str, int], Endpoint] = {}
        for item in told:
            key = (item.replica_id, item.host, item.port)
            if key in after:
                continue
            if key in before:
                after[key] = before.pop(key)
            else:
                after[key] = Endpoint(*key, self._connect(item.host, item.port))
        if session.endpoints:
            session.was_ready_at = now
        session.endpoints = list(after.values())
        for endpoint in before.values():
            endpoint.gone = True
            endpoint.upstream.close()
