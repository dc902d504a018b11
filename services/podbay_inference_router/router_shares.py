"""What this worker has of the limits that routers share, and what it tells of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from podbay_inference_router.leases import LeaseFile, Shared
from podbay_inference_router.share_link import Use
from podbay_inference_router.shares import LimitShares
from podbay_inference_router.table import Endpoint, RouteTable, SessionRoute
from podbay_inference_router.tenancy import AccountLoad

__all__ = ["RouterShares"]


class RouterShares:
    """Answers for the chooser, and counts for the session manager.

    Args:
        shares: What the session manager gave.
        table: The routes, with what runs.
        accounts: Returns what the accounts have here.
        leases: Shares limits with the other workers; None where there are none.
        now: A clock that only grows.
    """

    def __init__(
        self,
        shares: LimitShares,
        table: RouteTable,
        accounts: Callable[[], Iterable[AccountLoad]],
        leases: LeaseFile | None,
        now: Callable[[], float],
    ) -> None:
        self._shares = shares
        self._table = table
        self._accounts = accounts
        self._leases = leases
        self._now = now

    def holds(self) -> bool:
        """Say whether anything may be used of limits at this moment."""
        return self._shares.holds(self._now())

    def of_replica(self, endpoint: Endpoint, limit: int) -> int:
        """Return how many calls this router may have at a replica."""
        return self._shares.usable(endpoint.replica_id, limit, self._now())

    def of_session(self, session: SessionRoute) -> int:
        """Return how many calls of a session this router may have running."""
        return self._shares.usable(session.session_id, session.session_limit, self._now())

    def of_account(self, account: AccountLoad, limit: int) -> int:
        """Return how many calls of an account this router may have running within its quota."""
        return self._shares.usable(account.lease_key, limit, self._now())

    def uses(self) -> Mapping[str, Use]:
        """Return what this worker has and wants of each limit."""
        # Also of what the routes do not tell yet: it may be used as soon as they do.
        given = self._shares.given(self._now())
        found = {key: Use(share, 0, usable=share) for key, share in given.items()}
        for session in self._table.sessions():
            waiting = len(session.waiting)
            limit = session.session_limit
            if limit:
                key = session.session_id
                found[key] = self._use(key, session, limit, waiting, given)
            limit = session.max_concurrency
            if limit:
                each = -(-waiting // max(1, len(session.endpoints)))
                for endpoint in session.endpoints:
                    key = endpoint.replica_id
                    found[key] = self._use(key, endpoint, limit, each, given)
        for account in self._accounts():
            key, quota = account.lease_key, account.told_limit
            if quota:
                found[key] = self._use(key, account, quota, account.waiting, given)
        return found

    def _use(
        self, key: str, shared: Shared, limit: int, waiting: int, given: Mapping[str, int]
    ) -> Use:
        # A share may be of a larger limit than this worker was told of yet.
        share = max(given.get(key, 0), self._shares.usable(key, limit, self._now()))
        # What it began with a larger share that nobody was told of is counted, too.
        running = shared.outstanding if self._leases is None else self._leases.bound(shared)
        return Use(
            max(share, running), min(limit, shared.outstanding + waiting), running > share, share
        )
