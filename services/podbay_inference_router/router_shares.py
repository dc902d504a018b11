"""What this worker has of the limits that routers share, and what it tells of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from podbay_inference_router.leases import LeaseFile
from podbay_inference_router.settings import Settings
from podbay_inference_router.share_link import Use
from podbay_inference_router.shares import LimitShares
from podbay_inference_router.table import Endpoint, RouteTable, SessionRoute

__all__ = ["RouterShares"]


class RouterShares:
    """Answers for the chooser, and counts for the session manager.

    Args:
        shares: What the session manager gave.
        table: The routes, with what runs.
        settings: The limits.
        leases: Shares replicas' limits with the other workers; None where there are none.
        now: A clock that only grows.
    """

    def __init__(
        self,
        shares: LimitShares,
        table: RouteTable,
        settings: Settings,
        leases: LeaseFile | None,
        now: Callable[[], float],
    ) -> None:
        self._shares = shares
        self._table = table
        self._settings = settings
        self._leases = leases
        self._now = now
        # The most that this router could use of a session's limit since no more ran than it may.
        self._before: dict[str, int] = {}

    def note(self) -> None:
        """Note what may be used from now on; to be called whenever that has changed.

        Shares may change twice before anybody is told what is held: calls that began in between
        are held by what they began with.
        """
        now = self._now()
        for session in self._table.sessions():
            key, limit = session.session_id, session.session_limit
            if limit:
                before = self._before.get(key, limit)
                self._before[key] = max(before, self._shares.usable(key, limit, now))

    def holds(self) -> bool:
        """Say whether anything may be used of limits at this moment."""
        return self._shares.holds(self._now())

    def of_replica(self, endpoint: Endpoint, limit: int) -> int:
        """Return how many calls this router may have at a replica."""
        return self._shares.usable(endpoint.replica_id, limit, self._now())

    def of_session(self, session: SessionRoute) -> int:
        """Return how many calls of a session this worker may have running."""
        usable = self._shares.usable(session.session_id, session.session_limit, self._now())
        # With one router each worker may always have one; with several that may be too many.
        least = 1 if self._shares.sole and usable else 0
        return self._settings.divided(usable, least=least)

    def uses(self) -> Mapping[str, Use]:
        """Return what this worker has and wants of each limit."""
        # Also of what the routes do not tell yet: it may be used as soon as they do.
        given = self._shares.given(self._now())
        found = {key: Use(share, 0, usable=share) for key, share in given.items()}
        for session in self._table.sessions():
            if session.session_limit:
                found[session.session_id] = self._of_session(session)
            if session.max_concurrency:
                for endpoint in session.endpoints:
                    found[endpoint.replica_id] = self._of_replica(session, endpoint)
        return found

    def _of_replica(self, session: SessionRoute, endpoint: Endpoint) -> Use:
        limit = session.max_concurrency
        share = self.of_replica(endpoint, limit)
        if self._leases is None:
            held = max(share, endpoint.outstanding)
        else:
            held = self._leases.bound(endpoint, limit, share)
        count = max(1, len(session.endpoints))
        waiting = -(-len(session.waiting) // count)
        return Use(held, min(limit, endpoint.outstanding + waiting), held > share, share)

    def _of_session(self, session: SessionRoute) -> Use:
        limit = session.session_limit
        share = self._shares.usable(session.session_id, limit, self._now())
        held = share
        if session.running > self.of_session(session):
            held = max(share, self._before.get(session.session_id, limit))
        self._before[session.session_id] = held
        wanted = min(limit, session.running + len(session.waiting))
        return Use(held, wanted, held > share, share)
