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
    """Shares limits out among workers; `leases.LeaseFile` does."""

    def grow(self, shared: Shared, bound: int, now: float) -> bool:
        """Let this worker have more of the calls that this router may; say whether it got any."""
        ...

    def allowance(self, shared: Shared, bound: int) -> int:
        """Return how many of the calls that this router may have are this worker's."""
        ...

    def shrink(self, shared: Shared, limit: int, now: float, *, politely: bool = True) -> None:
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
        """Return how many calls of a session this router may have running."""
        ...

    def of_account(self, account: AccountLoad, limit: int) -> int:
        """Return how many calls of an account this router may have running within its quota."""
        ...

    def holds(self) -> bool:
        """Say whether anything may be used of limits at this moment."""
        ...


class Chooser:
    """Chooses endpoints within all limits.

    Args:
        settings: The limits.
        rng: Gives numbers from 0 up to 1, for ties.
        leases: Shares limits with other workers; None where there are no others.
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
        self.account_limit = settings.in_flight_of(settings.account_in_flight)
        """The most calls of one account that run at this worker; 0 for no limit."""
        self.limits_accounts = bool(self.account_limit)
        """Whether any account has a limit."""

    @property
    def polls(self) -> bool:
        """Whether nobody tells when other workers give back what calls here wait for."""
        return self._leases is not None

    def limit_account(self, account: AccountLoad, quota: int | None) -> None:
        """Set how many calls of an account run at once.

        Args:
            account: The account.
            quota: How many may, at all routers together; None for no such limit.
        """
        # Without a quota workers share the limit of this router alone.
        limit = (self._settings.account_in_flight or None) if quota is None else quota
        others = self._leases is not None or (self._shares is not None and quota is not None)
        account.shared = others and bool(limit)
        account.told_limit = quota
        account.limit = limit if account.shared or not limit else self._settings.in_flight_of(limit)
        account.blocked = False
        self.limits_accounts = self.limits_accounts or limit is not None

    def admits(self, tenant: Tenant[Any]) -> bool:
        """Whether an account may have another call running."""
        account = tenant.account
        return account.admits and (not self.account_limit or account.running < self.account_limit)

    def choose(self, call: Call, now: float) -> Endpoint | None:
        """Return the best endpoint for a call, which must then be sent there; None for none."""
        session = call.session
        if session.max_concurrency and self._shares is not None and not self._shares.holds():
            return None
        if session.max_in_flight and not self._session_has_room(session, now):
            return None
        endpoint = None
        if not self.limits_accounts or self._account_has_room(call.tenant, now):
            endpoint = self._choose(call, now)
        if endpoint is None:
            # What it took and does not use was free a moment ago: nobody waited for that.
            self.left_account(call.tenant.account, now, politely=False)
            self.left_session(session, now, politely=False)
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

    def left_account(self, account: AccountLoad, now: float, *, politely: bool = True) -> None:
        """Note that a call of an account has ended, or needs no lease after all."""
        if self._leases is not None and account.leases:
            self._leases.shrink(account, account.limit or 1, now, politely=politely)

    def left_session(self, session: SessionRoute, now: float, *, politely: bool = True) -> None:
        """Note that a call of a session has ended, or needs no lease after all."""
        if self._leases is not None and session.leases:
            self._leases.shrink(session, session.session_limit or 1, now, politely=politely)

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
        if self._leases is None or session.marked == waits:
            return
        if session.session_limit or not waits:
            session.marked = waits
            self._leases.mark(session, waits=waits)
        if session.shared_limit or not waits:
            session.marked = waits
            for endpoint in session.endpoints:
                self._leases.mark(endpoint, waits=waits)

    def _session_has_room(self, session: SessionRoute, now: float) -> bool:
        bound = session.max_in_flight
        if self._shares is not None:
            bound = min(bound, self._shares.of_session(session))
        return self._has_place(session, bound, now)

    def _account_has_room(self, tenant: Tenant[Any], now: float) -> bool:
        if not self.admits(tenant):
            return False
        account = tenant.account
        limit = account.limit
        if not account.shared or limit is None:
            return True
        bound = limit
        if self._shares is not None and account.told_limit is not None:
            bound = self._shares.of_account(account, limit)
        if self.account_limit:
            bound = min(bound, self.account_limit)
        account.blocked = not self._has_place(account, bound, now)
        return not account.blocked

    def _has_place(self, shared: Shared, bound: int, now: float) -> bool:
        """Say whether this worker may have another call within a limit, and see to it.

        Args:
            shared: What has the limit.
            bound: How many calls this router may have there.
            now: The time on the scheduler's clock.
        """
        if self._leases is None:
            return shared.outstanding < bound
        # Calls that ran before there was a limit need leases, too.
        while shared.outstanding >= self._leases.allowance(shared, bound):
            if not self._leases.grow(shared, bound, now):
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
        bound = limit if self._shares is None else self._shares.of_replica(endpoint, limit)
        return self._has_place(endpoint, bound, now)
