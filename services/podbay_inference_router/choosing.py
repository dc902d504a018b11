"""Which endpoint a call goes to, with all that limits the choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from podbay_inference_router import health
from podbay_inference_router.balancing import pick, pick_by_key

if TYPE_CHECKING:
    from podbay_inference_router.calls import Call
    from podbay_inference_router.leases import Shared
    from podbay_inference_router.settings import Settings
    from podbay_inference_router.table import Endpoint, SessionRoute
    from podbay_inference_router.tenancy import AccountLoad, Tenant

__all__ = ["Chooser", "Leases", "Shares"]


class Leases(Protocol):
    """Shares limits of replicas and accounts out among workers; `leases.LeaseFile` does."""

    def grow(self, shared: Shared, limit: int, now: float, share: int | None = None) -> bool:
        """Let this worker have more calls within a limit; say whether there was room."""
        ...

    def allowance(self, shared: Shared, limit: int, share: int) -> int:
        """Return how many calls this worker may have within this router's share of a limit."""
        ...

    def shrink(self, shared: Shared, limit: int, now: float) -> None:
        """Give back what the calls within a limit no longer need."""
        ...

    def mark(self, shared: Shared, *, waits: bool) -> None:
        """Tell the other workers whether calls wait here for room within a limit."""


class Shares(Protocol):
    """This router's shares of limits; `router_shares.RouterShares` is."""

    def of_replica(self, endpoint: Endpoint, limit: int) -> int:
        """Return how many calls this router may have at a replica."""
        ...

    def of_session(self, session: SessionRoute) -> int:
        """Return how many calls of a session this worker may have running."""
        ...

    def holds(self) -> bool:
        """Say whether anything may be used of limits at this moment."""
        ...


class Chooser:
    """Chooses endpoints within all limits.

    Args:
        settings: The limits.
        rng: Gives numbers from 0 up to 1, for ties.
        leases: Shares replicas' limits with other workers; None where there are no others.
        shares: Tells this router's shares of limits; None where it has all of them.
    """

    def __init__(
        self,
        settings: Settings,
        rng: Callable[[], float],
        leases: Leases | None,
        shares: Shares | None = None,
    ) -> None:
        self._settings = settings
        self._rng = rng
        self._leases = leases
        self._shares = shares
        self.account_limit = (
            settings.divided(settings.account_in_flight) if settings.account_in_flight else 0
        )
        """The most calls of one account that run at this worker; 0 for no limit."""
        self.limits_accounts = bool(self.account_limit)
        """Whether any account has a limit."""
        self._settings = settings

    def limit_account(self, account: AccountLoad, limit: int | None) -> None:
        """Set how many calls of an account run at once, at all workers together; None for all."""
        settings = self._settings
        account.shared = self._leases is not None and settings.workers > 1 and bool(limit)
        account.limit = account.told_limit = limit
        if limit and not account.shared:
            account.limit = settings.divided(limit)
        account.blocked = False
        if account.leases and not account.shared and self._leases is not None:
            # Whatever runs goes on; what it was counted by is given back.
            self._leases.shrink(account, 1, 0.0)
        self.limits_accounts = self.limits_accounts or limit is not None

    def admits(self, tenant: Tenant[Any]) -> bool:
        """Whether an account may have another call running."""
        account = tenant.account
        return account.admits and (not self.account_limit or account.running < self.account_limit)

    def choose(self, call: Call, now: float) -> Endpoint | None:
        """Return the best endpoint for a call, which must then be sent there; None for none."""
        session = call.session
        if session.max_in_flight and session.running >= self._session_limit(session):
            return None
        if session.max_concurrency and self._shares is not None and not self._shares.holds():
            return None
        account = call.tenant.account
        if self.limits_accounts and not self._account_has_room(call.tenant, now):
            return None
        endpoint = self._choose(call, now)
        if endpoint is None and account.allowance:
            self.left_account(account, now)
        return endpoint

    def _choose(self, call: Call, now: float) -> Endpoint | None:
        session = call.session
        endpoints, limit, excluded = session.endpoints, session.limit, call.excluded
        if call.affinity and endpoints:
            endpoint = pick_by_key(endpoints, limit, now, session.ring(), call.affinity, excluded)
            if endpoint is not None and self._has_room(session, endpoint, now):
                return endpoint
        if session.shared_limit:
            return self._choose_shared(session, endpoints, excluded, now)
        endpoint = pick(endpoints, limit, now, self._rng, excluded)
        if endpoint is None and excluded is not None:
            # Nothing else is there: where a repeat is safe, it is safe at the same replica, too.
            endpoint = pick(endpoints, limit, now, self._rng)
        return endpoint

    def second(self, call: Call, now: float) -> Endpoint | None:
        """Return an endpoint for a second try of a call that runs; None for none."""
        session = call.session
        healthy = [item for item in session.endpoints if health.is_healthy(item)]
        if session.shared_limit:
            return self._choose_shared(session, healthy, call.endpoint, now, strict=True)
        return pick(healthy, session.limit, now, self._rng, call.endpoint)

    def left_account(self, account: AccountLoad, now: float) -> None:
        """Note that a call of an account has ended, or needs no lease after all."""
        if self._leases is not None and account.leases:
            self._leases.shrink(account, account.limit or 1, now)

    def mark_account(self, account: AccountLoad, *, waits: bool) -> None:
        """Tell other workers whether calls of an account wait here for its limit."""
        if self._leases is not None and account.shared and account.marked != waits:
            account.marked = waits
            self._leases.mark(account, waits=waits)

    def left(self, session: SessionRoute, endpoint: Endpoint, now: float) -> None:
        """Note that a call has left an endpoint."""
        if self._leases is not None and endpoint.allowance:
            self._leases.shrink(endpoint, session.shared_limit or session.limit, now)

    def mark(self, session: SessionRoute, *, waits: bool) -> None:
        """Tell other workers whether calls of a session wait here."""
        if self._leases is not None and session.shared_limit and session.marked != waits:
            session.marked = waits
            for endpoint in session.endpoints:
                self._leases.mark(endpoint, waits=waits)

    def _account_has_room(self, tenant: Tenant[Any], now: float) -> bool:
        if not self.admits(tenant):
            return False
        account = tenant.account
        if not account.shared or account.limit is None:
            return True
        # Calls that ran before there was a limit need leases, too.
        while account.running >= account.allowance:
            if self._leases is None or not self._leases.grow(account, account.limit, now):
                account.blocked = True
                return False
        return True

    def _choose_shared(
        self,
        session: SessionRoute,
        endpoints: list[Endpoint],
        excluded: Endpoint | None,
        now: float,
        *,
        strict: bool = False,
    ) -> Endpoint | None:
        """Choose among endpoints that other workers call, too, one that has room for this one."""
        left = list(endpoints)
        any_healthy = any(map(health.is_healthy, endpoints))
        while left:
            endpoint = pick(left, session.limit, now, self._rng, excluded)
            if endpoint is None:
                break
            # Without the healthy ones that are full, those set aside would seem to be all.
            full_ones_are_better = (
                any_healthy and endpoint.asides > 0 and now < endpoint.aside_until
            )
            if not full_ones_are_better and self._has_room(session, endpoint, now):
                return endpoint
            left.remove(endpoint)
        if excluded is not None and not strict and excluded in endpoints:
            return excluded if self._may_return(session, excluded, now) else None
        return None

    def _may_return(self, session: SessionRoute, endpoint: Endpoint, now: float) -> bool:
        """Whether a repeat may go where the first try went, as nothing else has room."""
        free = pick([endpoint], session.limit, now, self._rng) is endpoint
        return free and self._has_room(session, endpoint, now)

    def _has_room(self, session: SessionRoute, endpoint: Endpoint, now: float) -> bool:
        limit = session.shared_limit
        if not limit:
            return True
        share = limit if self._shares is None else self._shares.of_replica(endpoint, limit)
        if self._leases is None:
            return endpoint.outstanding < share
        if endpoint.outstanding < self._leases.allowance(endpoint, limit, share):
            return True
        return self._leases.grow(endpoint, limit, now, share)

    def _session_limit(self, session: SessionRoute) -> int:
        if self._shares is None:
            return session.max_in_flight
        return self._shares.of_session(session)
