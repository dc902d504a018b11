"""The routes that routers serve by: what a session's route is, and the table of all."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from podbay.v1 import errors_pb2
from podbay.v1 import session_manager_service_pb2 as manager_pb2
from podbay_session_manager.machine import ReplicaPhase
from podbay_session_manager.records import Reason, ReplicaRecord, SessionRecord
from podbay_session_manager.texts import evidence_of, explanation

__all__ = ["RouteChanges", "RouteTable", "build_route", "reason_number"]

_MESSAGE_BYTES = 2000
_KEPT_TOMBSTONES = 10_000


def reason_number(reason: Reason) -> errors_pb2.ErrorReason.ValueType:
    """Return the number of a reason in the protos."""
    return errors_pb2.ErrorReason.Value(f"ERROR_REASON_{reason.value or 'UNSPECIFIED'}")


def build_route(session: SessionRecord, replicas: Iterable[ReplicaRecord]) -> manager_pb2.Route:
    """Return the route of a session. Pure.

    Args:
        session: The session.
        replicas: Its replicas, those that ended too.
    """
    known = list(replicas)
    ended = session.ended_reason is not Reason.NONE
    route = manager_pb2.Route(
        session_id=session.id,
        account=session.account,
        epoch=session.epoch,
        state=manager_pb2.ROUTE_STATE_ENDED if ended else manager_pb2.ROUTE_STATE_OPEN,
        ended_reason=reason_number(session.ended_reason),
        max_concurrency=session.serving.max_concurrency,
        safe_to_retry=session.serving.safe_to_retry,
        max_in_flight=session.serving.max_in_flight,
        queue_length=session.serving.queue_length,
    )
    if session.serving.queue_timeout is not None:
        route.queue_timeout.FromNanoseconds(round(session.serving.queue_timeout * 1e9))
    if session.serving.hedge_after is not None:
        route.hedge_after.FromNanoseconds(round(session.serving.hedge_after * 1e9))
    if session.expires is not None:
        route.expires.FromMilliseconds(round(session.expires * 1000))
    if ended:
        route.message = _cut(session.status_message or "")
        route.evidence.update(session.evidence)
        return route
    route.endpoints.extend(
        manager_pb2.RouteEndpoint(replica_id=r.id, host=r.host, port=r.port)
        for r in sorted(known, key=lambda r: (r.index, r.attempt))
        if r.phase.serves
    )
    if not route.endpoints:
        # The evidence of the last failure tells callers what to expect, while it is mended.
        route.message = _cut(explanation(session, known))
        failed = [r for r in known if r.phase is ReplicaPhase.FAILED]
        if failed:
            last = max(failed, key=lambda r: r.transition_at)
            route.evidence.update(evidence_of(last))
            if last.reason is Reason.MOCK_PROCESS_ENDED:
                # Waiting does not help: somebody must run something again.
                route.queue_timeout.SetInParent()
        else:
            # Nothing has failed yet: what keeps a replica waiting is the reason.
            for waiting in known:
                if waiting.phase is ReplicaPhase.PENDING and waiting.reason is not Reason.NONE:
                    route.evidence.update(reason=waiting.reason.value, replica=waiting.id)
                    break
    return route


def _cut(text: str) -> str:
    if len(text.encode()) <= _MESSAGE_BYTES:
        return text
    return text.encode()[: _MESSAGE_BYTES - 3].decode(errors="ignore") + "…"


@dataclass(frozen=True, slots=True)
class RouteChanges:
    """What a watch has to send."""

    revision: int
    routes: Sequence[manager_pb2.Route]
    removed: Sequence[str] = ()
    snapshot: bool = False
    keys: Sequence[manager_pb2.VerificationKey] = ()
    """The keys that verify session tokens, all of them; none where they did not change."""
    limits: Sequence[manager_pb2.AccountLimit] = ()


@dataclass(slots=True)
class _Entry:
    revision: int
    route: manager_pb2.Route
    ended_at: float | None


class RouteTable:
    """All routes, and the keys of tokens, with a revision that grows with every change.

    Routes of ended sessions stay for a while, so that callers learn why.

    Args:
        first_revision: Where revisions begin; larger than any that an earlier process gave out.
        keep_ended_for: Seconds that an ended route stays.
        keep_ended: How many ended routes stay at most.
    """

    def __init__(
        self, first_revision: int, *, keep_ended_for: float = 600.0, keep_ended: int = 1000
    ) -> None:
        self.revision = first_revision
        self._keep_ended_for = keep_ended_for
        self._keep_ended = keep_ended
        # In the order of their last change.
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._ended: OrderedDict[str, float] = OrderedDict()
        self._removed: deque[tuple[int, str]] = deque()
        # Revisions up to this one have lost removals.
        self._forgotten = first_revision
        self._keys: tuple[manager_pb2.VerificationKey, ...] = ()
        self._keys_revision = first_revision
        self._news = asyncio.Event()
        # Also those that were lifted: who watches is told so.
        self._limits: dict[str, tuple[int, int | None]] = {}

    def put_limit(self, account: str, limit: int | None) -> bool:
        """Set how many calls of an account run at once; say whether that made a difference.

        Args:
            account: The account.
            limit: The limit; None for none.
        """
        known = self._limits.get(account)
        if (None if known is None else known[1]) == limit:
            return False
        self.revision += 1
        self._limits[account] = (self.revision, limit)
        self._wake()
        return True

    def set_keys(self, keys: Sequence[manager_pb2.VerificationKey]) -> bool:
        """Take other keys; say whether that made a difference."""
        if self._keys == tuple(keys):
            return False
        self.revision += 1
        self._keys, self._keys_revision = tuple(keys), self.revision
        self._wake()
        return True

    def put(self, route: manager_pb2.Route, ended_at: float | None = None) -> bool:
        """Add or change a route; say whether that made a difference.

        Args:
            route: The route; not to be changed afterwards.
            ended_at: When its session ended, in seconds since 1970; None while it lives.
        """
        known = self._entries.get(route.session_id)
        if known is not None and known.route == route:
            return False
        self.revision += 1
        self._entries[route.session_id] = _Entry(self.revision, route, ended_at)
        self._entries.move_to_end(route.session_id)
        if ended_at is not None:
            self._ended.setdefault(route.session_id, ended_at)
        self._wake()
        return True

    def revision_of(self, session_id: str) -> int:
        """Return the revision of a route's last change; 0 where there is none."""
        entry = self._entries.get(session_id)
        return 0 if entry is None else entry.revision

    def expire(self, now: float) -> None:
        """Remove the routes of sessions that ended long ago, and the oldest of many."""
        while self._ended:
            session_id, ended_at = next(iter(self._ended.items()))
            if len(self._ended) <= self._keep_ended and now - ended_at < self._keep_ended_for:
                return
            del self._ended[session_id]
            del self._entries[session_id]
            self.revision += 1
            self._removed.append((self.revision, session_id))
            if len(self._removed) > _KEPT_TOMBSTONES:
                self._forgotten, _ = self._removed.popleft()
            self._wake()

    def snapshot(self) -> RouteChanges:
        """Return all routes."""
        routes = [entry.route for entry in self._entries.values()]
        limits = [
            _limit(account, limit)
            for account, (_, limit) in self._limits.items()
            if limit is not None
        ]
        return RouteChanges(self.revision, routes, snapshot=True, limits=limits, keys=self._keys)

    def since(self, revision: int) -> RouteChanges | None:
        """Return what changed after a revision; None where nothing did.

        Where that is no longer known, a snapshot comes instead.
        """
        if revision == self.revision:
            return None
        if revision < self._forgotten or revision > self.revision:
            return self.snapshot()
        changed: list[manager_pb2.Route] = []
        for entry in reversed(self._entries.values()):
            if entry.revision <= revision:
                break
            changed.append(entry.route)
        removed = [key for at, key in self._removed if at > revision and key not in self._entries]
        keys = self._keys if self._keys_revision > revision else ()
        limits = [
            _limit(account, limit) for account, (at, limit) in self._limits.items() if at > revision
        ]
        return RouteChanges(self.revision, changed[::-1], removed, keys=keys, limits=limits)

    async def changed(self, revision: int) -> None:
        """Return once there is something after a revision."""
        while self.revision == revision:
            await self._news.wait()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _limit(account: str, limit: int | None) -> manager_pb2.AccountLimit:
    return manager_pb2.AccountLimit(account=account, requests_in_flight=limit)
