"""What routers and callers are told: routes, who is ready, who is drained.

Between the stored state and the routers stands time: a replica that is READY here takes calls
only when the routers know. The announcer keeps the table of routes, and says which replicas every
router knows of (ready for callers) and which it has let go (drained, and free to be stopped).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from podbay.v1 import session_manager_service_pb2 as manager_pb2
from podbay_session_manager.machine import ReplicaPhase
from podbay_session_manager.records import Reason, ReplicaRecord, SessionRecord
from podbay_session_manager.route_acks import RouteAcks
from podbay_session_manager.routes import RouteTable, build_route

__all__ = ["Announcer"]

_SURELY_ANNOUNCED_SECONDS = 2.0


class Announcer:
    """Keeps the routes, and what of them has reached the routers.

    Args:
        table: The table of routes.
        acks: How far the routers are.
    """

    def __init__(self, table: RouteTable, acks: RouteAcks) -> None:
        self.table = table
        self.acks = acks
        self._ready: set[str] = set()
        self._drained: set[str] = set()
        # Replicas that wait for a revision: their session, and the revision.
        self._becoming_ready: dict[str, tuple[str, int]] = {}
        self._draining: dict[str, tuple[str, int]] = {}

    @property
    def drained(self) -> frozenset[str]:
        """The replicas of which every router knows that they take no calls."""
        return frozenset(self._drained)

    def is_ready(self, replica_id: str) -> bool:
        """Say whether a replica takes calls at every router."""
        return replica_id in self._ready

    def restore(
        self,
        session: SessionRecord,
        replicas: Mapping[str, ReplicaRecord],
        now: float,
        monotonic: float,
    ) -> None:
        """Take up a session of an earlier session manager; routers knew what was long ready."""
        for replica in replicas.values():
            if replica.phase is ReplicaPhase.READY and (
                replica.ready_at is not None and now - replica.ready_at > _SURELY_ANNOUNCED_SECONDS
            ):
                self._ready.add(replica.id)
        self.update(session, replicas, now, monotonic)

    def update(
        self,
        session: SessionRecord,
        replicas: Mapping[str, ReplicaRecord],
        now: float,
        monotonic: float,
    ) -> None:
        """Bring the route of a session up to date.

        Args:
            session: The session.
            replicas: Its replicas by id.
            now: Seconds since 1970.
            monotonic: Seconds of the clock that `acks` is told.
        """
        ended_at = None if session.ended_reason is Reason.NONE else (session.ended_at or now)
        if self.table.put(build_route(session, replicas.values()), ended_at):
            self.acks.publish(monotonic)
        revision = self.table.revision_of(session.id)
        for replica in replicas.values():
            self._follow(replica, revision)

    def announce_keys(self, keys: Sequence[manager_pb2.VerificationKey], monotonic: float) -> int:
        """Tell the keys of session tokens, and return the revision that has them."""
        if self.table.set_keys(keys):
            self.acks.publish(monotonic)
        return self.table.revision

    def forget(self, replica_id: str) -> None:
        """Drop what is known of a replica that is kept no longer."""
        for pending in (self._becoming_ready, self._draining):
            pending.pop(replica_id, None)
        self._ready.discard(replica_id)
        self._drained.discard(replica_id)

    def settle(self, monotonic: float) -> set[str]:
        """See what has reached the routers; return the sessions that this changes."""
        changed: set[str] = set()
        for pending, reached in (
            (self._becoming_ready, self._ready),
            (self._draining, self._drained),
        ):
            for replica_id, (session_id, revision) in list(pending.items()):
                if self.acks.settled(revision, monotonic):
                    del pending[replica_id]
                    reached.add(replica_id)
                    changed.add(session_id)
        return changed

    @property
    def waiting(self) -> bool:
        """Whether anything waits for the routers."""
        return bool(self._becoming_ready or self._draining)

    def _follow(self, replica: ReplicaRecord, revision: int) -> None:
        if replica.phase is ReplicaPhase.READY:
            if replica.id not in self._ready:
                self._becoming_ready.setdefault(replica.id, (replica.session_id, revision))
            return
        self._ready.discard(replica.id)
        self._becoming_ready.pop(replica.id, None)
        if replica.phase is ReplicaPhase.DRAINING:
            if replica.id not in self._drained:
                self._draining.setdefault(replica.id, (replica.session_id, revision))
            return
        self._draining.pop(replica.id, None)
        self._drained.discard(replica.id)
