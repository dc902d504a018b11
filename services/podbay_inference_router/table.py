"""The routes: which sessions there are, where their replicas answer, what runs there. Pure.

The table is what `WatchRoutes` said last. It outlives the session manager: nothing in it is dropped
because nobody speaks.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from podbay.v1 import errors_pb2
from podbay.v1.session_manager_service_pb2 import (
    ROUTE_STATE_ENDED,
    Route,
    RouteEndpoint,
    WatchRoutesResponse,
)
from podbay_inference_router.budget import RetryBudget
from podbay_inference_router.ports import Upstream
from podbay_inference_router.rates import DrainRate
from podbay_inference_router.ring import HashRing
from podbay_inference_router.settings import Settings
from podbay_inference_router.tenancy import AccountLoad, FairLine, Tenant

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
        strikes: How many calls failed there in a row.
        asides: How many times in a row it was set aside for that; 0 while it is not.
        aside_until: Until when no call is tried after that, on the scheduler's clock.
        probing: Whether a call is trying it after failed connects, or after it was set aside.
        allowance: The most calls that this worker may have there, where workers share a limit.
        leases: What that is made of: how many calls each lease is for.
        yield_until: Until when other workers go first, on the scheduler's clock.
        reported: Whether the session manager was told that its calls fail.
        upstream: Its connections.
    """

    __slots__ = (
        "allowance",
        "aside_until",
        "asides",
        "down_until",
        "failures",
        "gone",
        "host",
        "leases",
        "outstanding",
        "port",
        "probing",
        "replica_id",
        "reported",
        "strikes",
        "upstream",
        "yield_until",
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
        self.strikes = 0
        self.asides = 0
        self.aside_until = 0.0
        self.probing = False
        self.reported = False
        self.allowance = 0
        self.leases: dict[int, int] = {}
        self.yield_until = 0.0

    @property
    def lease_key(self) -> str:
        """What its leases are known by to all workers."""
        return f"{self.replica_id} {self.host} {self.port}"


class SessionRoute:
    """A session as the router knows it.

    Attributes:
        session_id: The session.
        known: False for a session that the session manager has not told of (yet).
        account: The account that owns it; "" where it is not known.
        ended: Why it ended, as an ErrorReason; 0 while it lives.
        epoch: Tokens of earlier epochs are refused.
        expires: When it ends by itself, in seconds since 1970; 0 for never.
        message: Why it is not ready or has ended, for people.
        evidence: The same in parts.
        endpoints: The replicas that take calls.
        limit: The most calls that this worker may have at one of them.
        shared_limit: The most calls that all workers together may have at one of them; 0 where
            none is shared.
        max_concurrency: How many calls one replica works on at once; 0 for any number.
        session_limit: How many of its calls run at once at all routers; 0 for any number.
        marked: Whether the other workers were told that calls wait here.
        max_in_flight: The most calls that this worker may have running in it, as far as it can tell
            without the others; 0 for no limit.
        allowance: The most that may run here, where workers share the limit.
        leases: What that is made of: how many calls each lease is for.
        yield_until: Until when other workers go first, on the scheduler's clock.
        safe_to_retry: Whether a call may be sent again although a replica may have seen it.
        hedge_after: Seconds without an answer after which a call is sent to a second replica; 0
            for never.
        queue_timeout: Seconds that a call may wait; None for the router's setting.
        queue_length: The most calls that wait; None for the router's setting.
        was_ready_at: When it last had an endpoint, on the scheduler's clock; None for never.
        calls: How many calls were submitted.
        budget: How many calls may be sent twice.
        waiting: The calls that wait.
        rate: How fast they get their turn.
        pumping: Whether the waiting calls are being looked at just now.
        probe: The timer after which an endpoint that was down is tried, where calls wait for it.
    """

    __slots__ = (
        "_ring",
        "_tenants",
        "account",
        "allowance",
        "budget",
        "calls",
        "ended",
        "endpoints",
        "epoch",
        "evidence",
        "expires",
        "hedge_after",
        "known",
        "leases",
        "limit",
        "marked",
        "max_concurrency",
        "max_in_flight",
        "message",
        "probe",
        "pumping",
        "queue_length",
        "queue_timeout",
        "rate",
        "safe_to_retry",
        "session_id",
        "session_limit",
        "shared_limit",
        "waiting",
        "was_ready_at",
        "yield_until",
    )

    def __init__(self, session_id: str, retry_ratio: float = 0.1) -> None:
        self.session_id = session_id
        self.known = False
        self.account = ""
        self.ended: errors_pb2.ErrorReason.ValueType = errors_pb2.ERROR_REASON_UNSPECIFIED
        self.epoch = 0
        self.expires = 0.0
        self.message = ""
        self.evidence: Mapping[str, str] = {}
        self.endpoints: list[Endpoint] = []
        self.limit = 1
        self.shared_limit = 0
        self.marked = False
        self.max_in_flight = 0
        self.max_concurrency = 0
        self.session_limit = 0
        self.allowance = 0
        self.leases: dict[int, int] = {}
        self.yield_until = 0.0
        self.safe_to_retry = False
        self.hedge_after = 0.0
        self.queue_timeout: float | None = None
        self.queue_length: int | None = None
        self.was_ready_at: float | None = None
        self.calls = 0
        self.budget = RetryBudget(retry_ratio)
        self.waiting: FairLine[Any] = FairLine()
        self.rate = DrainRate()
        self.pumping = False
        self.probe: object | None = None
        self._tenants: dict[str, Tenant[Any]] = {}
        self._ring: HashRing | None = None

    @property
    def running(self) -> int:
        """How many of its calls run."""
        return sum(tenant.running for tenant in self._tenants.values())

    @property
    def outstanding(self) -> int:
        """The calls that leases are needed for."""
        return self.running

    @property
    def lease_key(self) -> str:
        """What its leases are known by to all workers."""
        return f"session {self.session_id}"

    def tenant(self, account: AccountLoad) -> Tenant[Any]:
        """Return the place of an account in this session."""
        tenant = self._tenants.get(account.name)
        if tenant is None:
            tenant = self._tenants[account.name] = Tenant(account)
        return tenant

    def ring(self) -> HashRing:
        """Return the ring of the endpoints' replicas."""
        if self._ring is None:
            self._ring = HashRing(endpoint.replica_id for endpoint in self.endpoints)
        return self._ring

    def set_endpoints(self, endpoints: list[Endpoint]) -> None:
        """Take other endpoints."""
        if endpoints != self.endpoints:
            self._ring = None
        self.endpoints = endpoints

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
        revoked: Sessions whose tokens of earlier epochs were revoked.
        keys: Whether the keys were told anew.
        accounts: Whether limits of accounts have changed.
    """

    __slots__ = ("accounts", "keys", "removed", "revoked", "sessions")

    def __init__(self) -> None:
        self.sessions: list[SessionRoute] = []
        self.removed: list[SessionRoute] = []
        self.revoked: list[SessionRoute] = []
        self.keys = False
        self.accounts = False


class RouteTable:
    """All sessions, as the session manager told last.

    Args:
        connect: Makes the connections of a new endpoint out of its host and port.
        settings: The limits.
    """

    def __init__(self, connect: Callable[[str, int], Upstream], settings: Settings) -> None:
        self._connect = connect
        self._settings = settings
        self._sessions: dict[str, SessionRoute] = {}
        self.keys: dict[str, bytes] = {}
        self.account_limits: dict[str, int] = {}
        """How many calls of an account run at once, over all sessions."""
        self.revision = 0
        self._sole = True
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
            session = self._sessions[session_id] = SessionRoute(
                session_id, self._settings.retry_ratio
            )
        return session

    def sessions(self) -> list[SessionRoute]:
        """Return all sessions."""
        return list(self._sessions.values())

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
        changes.accounts = self._take_limits(message)
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
            if route.epoch > session.epoch:
                # Of a session that was not known, too: its calls may wait for the first news.
                changes.revoked.append(session)
            self._update(session, route, now)
            changes.sessions.append(session)
        self.revision = message.revision
        return changes

    def _take_limits(self, message: WatchRoutesResponse) -> bool:
        """Take the limits of accounts; say whether any has changed."""
        before = self.account_limits
        limits = {} if message.snapshot else dict(before)
        for told in message.account_limits:
            if told.HasField("requests_in_flight"):
                limits[told.account] = told.requests_in_flight
            else:
                limits.pop(told.account, None)
        self.account_limits = limits
        return limits != before

    def _update(self, session: SessionRoute, route: Route, now: float) -> None:
        session.known = True
        session.account = route.account
        session.epoch = route.epoch
        session.message = route.message
        session.evidence = dict(route.evidence)
        session.max_concurrency = max(0, route.max_concurrency)
        session.session_limit = max(0, route.max_in_flight)
        self._set_limits(session)
        session.safe_to_retry = route.safe_to_retry
        session.hedge_after = (
            _seconds(route.hedge_after)
            if route.safe_to_retry and route.HasField("hedge_after")
            else 0.0
        )
        session.queue_length = route.queue_length if route.HasField("queue_length") else None
        session.expires = _seconds(route.expires) if route.HasField("expires") else 0.0
        session.queue_timeout = (
            _seconds(route.queue_timeout) if route.HasField("queue_timeout") else None
        )
        if route.state == ROUTE_STATE_ENDED:
            session.ended = route.ended_reason or errors_pb2.ERROR_REASON_SESSION_TERMINATED
            self._update_endpoints(session, (), now)
        else:
            session.ended = errors_pb2.ERROR_REASON_UNSPECIFIED
            self._update_endpoints(session, route.endpoints, now)

    def set_sole(self, sole: bool) -> None:
        """Note whether other routers call the same replicas."""
        if sole != self._sole:
            self._sole = sole
            for session in self._sessions.values():
                self._set_limits(session)

    def _set_limits(self, session: SessionRoute) -> None:
        session.limit, session.shared_limit = self._settings.limits_of(
            session.max_concurrency, sole=self._sole
        )
        session.max_in_flight = self._settings.in_flight_of(session.session_limit)

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
        session.set_endpoints(list(after.values()))
        for endpoint in before.values():
            endpoint.gone = True
            endpoint.upstream.close()


def _seconds(value: Duration | Timestamp) -> float:
    return value.seconds + value.nanos * 1e-9
