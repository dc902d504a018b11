"""Which call goes where and when: the choice of a replica, and the queue before it."""

import time
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from podbay.v1 import errors_pb2
from podbay.v1.errors_pb2 import CallError
from podbay_inference_router import failures, health
from podbay_inference_router.balancing import backoff_after
from podbay_inference_router.calls import Call
from podbay_inference_router.choosing import Chooser, Leases, Shares
from podbay_inference_router.failed_calls import FailedCalls
from podbay_inference_router.hedging import Hedge
from podbay_inference_router.holding import Holding
from podbay_inference_router.leases import RETRY_SECONDS
from podbay_inference_router.meters import Meters
from podbay_inference_router.ports import Scheduler
from podbay_inference_router.settings import Settings
from podbay_inference_router.table import Changes, Endpoint, RouteTable, SessionRoute
from podbay_inference_router.tenancy import AccountLoad
from podbay_inference_router.tracing import CallSpans
from podbay_kit.errors import reason_name

__all__ = ["Dispatcher"]


def _want_nothing() -> None:
    """Want nothing where nobody is there to give."""


def _tell_nobody(_report: health.ReplicaReport) -> None:
    """Take a report where nobody is there to be told."""


class Dispatcher:
    """Gives calls to endpoints, and lets them wait where none is free.

    Args:
        table: The routes.
        settings: The limits.
        scheduler: Time and timers: the event loop.
        rng: Gives numbers from 0 up to 1, for ties and pauses.
        wall_clock: Gives the time of day in seconds since 1970.
        report: Told of replicas whose calls fail, and of those that recover.
        meters: Counts what happens; None where nobody looks.
        spans: Makes spans of calls; None where they are not traced.
        leases: Shares limits with other workers; None where there are no others.
        shares: Tells this router's shares of limits; None where it has all of them.
        on_want: Called where calls wait for what other routers may have.
        failed_calls: Counts the calls that fail, for the session manager.
    """

    def __init__(
        self,
        table: RouteTable,
        settings: Settings,
        scheduler: Scheduler,
        rng: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
        report: Callable[[health.ReplicaReport], None] = _tell_nobody,
        meters: Meters | None = None,
        spans: CallSpans | None = None,
        leases: Leases | None = None,
        shares: Shares | None = None,
        on_want: Callable[[], None] = _want_nothing,
        failed_calls: FailedCalls | None = None,
    ) -> None:
        self.failed_calls = failed_calls or FailedCalls(scheduler.time)
        self._on_want = on_want
        self._rng = rng
        self.table = table
        self.settings = settings
        self.scheduler = scheduler
        self.meters = meters
        self.spans = spans
        self._wall_clock = wall_clock
        self._report = report
        self._holding = Holding(settings, scheduler)
        self._accounts: WeakValueDictionary[str, AccountLoad] = WeakValueDictionary()
        self._chooser = Chooser(settings, rng, leases, shares)
        self._admits = self._chooser.admits
        self.active = 0
        """Calls that were submitted and have not ended."""
        self.draining = False

    def account(self, name: str) -> AccountLoad:
        """Return what an account has at this worker; kept for as long as somebody holds it."""
        load = self._accounts.get(name)
        if load is None:
            load = self._accounts[name] = AccountLoad(name)
            self._chooser.limit_account(load, self.table.account_limits.get(name))
        return load

    def accounts(self) -> list[AccountLoad]:
        """Return what each account has at this worker."""
        return list(self._accounts.values())

    def running(self) -> dict[str, int]:
        """Return how many calls of each account run at this worker."""
        return {name: load.running for name, load in self._accounts.items() if load.running}

    def submit(self, call: Call, timeout: float) -> None:
        """Begin a call; its sink may hear of its end before this returns.

        Args:
            call: The call.
            timeout: Seconds it may take, queue and work together.
        """
        self.active += 1
        call.session.calls += 1
        if self.draining:
            call.fail(failures.draining())
        elif timeout <= 0:
            call.on_deadline()
        else:
            now = self.scheduler.time()
            call.began = now
            call.expires_at = now + timeout
            call.timer = self.scheduler.call_later(timeout, call.on_deadline)
            self.route(call)

    def count_done(self, session: SessionRoute) -> None:
        """Count the end of a call of `session`."""
        self.active -= 1
        if not session.known:
            self.table.forget_unknown(session)

    def refuse(self, error: CallError, session_id: str = "") -> None:
        """Count a call, or a stream of them, that is refused before it is submitted.

        Args:
            error: Why.
            session_id: Its session; "" where that is not known for sure.
        """
        if session_id:
            self.failed_calls.note(session_id, error)
        if self.meters is not None:
            self.meters.refused(error.reason)

    def spoil(self, error: CallError, session_id: str) -> None:
        """Count a call as failed whose answer, when it was there, could not be passed on."""
        self.failed_calls.note(session_id, error)
        if self.meters is not None:
            self.meters.spoiled(error.reason)

    def end_span(self, call: Call, error: CallError | None) -> None:
        """End the span of a call."""
        if self.spans is not None:
            reason = "" if error is None else reason_name(error.reason)
            self.spans.end(call.trace.span, reason, {"podbay.replica": call.replica_id})

    def route(self, call: Call, *, again: bool = False) -> None:
        """Send a call to the best endpoint, or let it wait.

        Args:
            call: The call.
            again: Whether it had its turn before, so that it need not stand behind others.
        """
        error = self._refusal(call)
        if error is not None:
            call.fail(error)
            return
        now = self.scheduler.time()
        # Other workers may have given back what was missing.
        call.tenant.account.blocked = False
        waiting = call.session.waiting
        # Those who wait only because their account has its most running hold nobody up.
        if again or not waiting.length or not self._others_first(call.session):
            endpoint = self._chooser.choose(call, now)
            if endpoint is not None:
                call.begin(endpoint)
                return
        error = self._holding.hold(call, now, again=again, held=not self._admits(call.tenant))
        if error is not None:
            call.fail(error)
        elif call.in_line:
            self._note_held(call.session)
            self._arm_probe(call.session)

    def _others_first(self, session: SessionRoute) -> bool:
        """Whether calls wait that have their turn before a new one."""
        first = session.waiting.first(self._admits)
        if first is not None and first[1].account.shared:
            # Whether there is a lease for it only a try can tell.
            self.pump(session)
            first = session.waiting.first(self._admits)
        return first is not None

    def look(self, session: SessionRoute) -> None:
        """Look whether a waiting call can go, as something may have become free."""
        if session.waiting:
            self.pump(session)

    def freed(self, call: Call, *, finished: bool) -> None:
        """Let others go where a call has left its endpoint.

        Args:
            call: The call.
            finished: Whether it has ended; otherwise it looks for another endpoint.
        """
        session = call.session
        # It may have left a place that calls of its account wait for.
        call.tenant.account.blocked = False
        if session.waiting:
            if finished:
                session.rate.note(self.scheduler.time())
            self.pump(session)
        self._look_at_held(call.tenant.account)

    def _look_at_held(self, account: AccountLoad) -> None:
        """Look at the sessions in which calls wait only for their account's limit."""
        if account.held:
            sessions: list[Any] = list(account.held)
            account.held.clear()
            for session in sessions:
                self.pump(session)

    def pump(self, session: SessionRoute) -> None:
        """Let waiting calls go where something became free."""
        if session.pumping:
            return
        session.pumping = True
        waiting = session.waiting
        try:
            while (found := waiting.first(self._admits)) is not None:
                call: Call = found[0]
                endpoint = self._chooser.choose(call, self.scheduler.time())
                if endpoint is None:
                    if found[1].account.blocked:
                        continue  # others need not wait for it
                    break
                self._holding.release(call)
                waiting.served(found[1])
                if self.meters is not None and call.waiting_since is not None:
                    self.meters.queue.add(self.scheduler.time() - call.waiting_since)
                call.begin(endpoint)
        finally:
            session.pumping = False
        if waiting:
            self._note_held(session)
            self._arm_probe(session)
        elif session.marked:
            self._chooser.mark(session, waits=False)

    def stop_waiting(self, call: Call) -> None:
        """Take a call out of the queue, where it is in it."""
        self._holding.release(call)
        account = call.tenant.account
        if account.marked and not account.waiting:
            self._chooser.mark_account(account, waits=False)

    def on_changes(self, changes: Changes) -> None:
        """Look at the waiting calls of sessions that changed."""
        if changes.accounts:
            for load in self.accounts():
                self._chooser.limit_account(load, self.table.account_limits.get(load.name))
                self._look_at_held(load)
        for session in changes.removed:
            for call in session.waiting.take_all():
                call.fail(self._refusal(call) or failures.session_not_found(session.session_id))
        for session in changes.sessions:
            if session.waiting:
                session.pumping = True  # first those go that may not stay
                for call in list(session.waiting):
                    error = self._refusal(call)
                    if error is not None:
                        call.fail(error)
                session.pumping = False
                self.pump(session)

    def on_shares(self) -> None:
        """Look at all calls that wait, as what this router may use has changed."""
        for load in self.accounts():
            load.blocked = False
        for session in self.table.waiting_sessions():
            self.pump(session)

    def drain(self) -> None:
        """Refuse what is new or waits; what runs goes on."""
        self.draining = True
        for session in self.table.waiting_sessions():
            for call in session.waiting.take_all():
                call.fail(failures.draining())

    def left(self, session: SessionRoute, endpoint: Endpoint) -> None:
        """Note that a call has left an endpoint whose limit other workers share."""
        self._chooser.left(session, endpoint, self.scheduler.time())

    def left_session(self, session: SessionRoute) -> None:
        """Note that a call of a session has ended."""
        self._chooser.left_session(session, self.scheduler.time())

    def left_account(self, account: AccountLoad) -> None:
        """Note that a call of an account has ended."""
        self._chooser.left_account(account, self.scheduler.time())

    # How the calls at an endpoint go.

    def note_connected(self, session: SessionRoute, endpoint: Endpoint) -> None:
        """Let others go to an endpoint that could not be connected to until now."""
        endpoint.failures = 0
        endpoint.probing = endpoint.asides > 0
        self.look(session)

    def note_connect_failure(self, endpoint: Endpoint) -> None:
        """Leave an endpoint alone for a while, because it could not be connected to."""
        if self.meters is not None:
            self.meters.reconnects += 1
        endpoint.failures += 1
        endpoint.probing = False
        endpoint.down_until = self.scheduler.time() + backoff_after(endpoint.failures)

    def note_failed_call(
        self, session: SessionRoute, endpoint: Endpoint, status: int, detail: str
    ) -> None:
        """Count a call that failed at an endpoint; tell the session manager of one too many.

        Args:
            session: The session.
            endpoint: The endpoint.
            status: The HTTP status; 0 where there was no answer.
            detail: What the replica said, or how it failed.
        """
        limit = self.settings.failures_in_row
        aside = health.strike(endpoint, session.endpoints, limit, self.scheduler.time())
        if aside and self.meters is not None:
            self.meters.set_asides += 1
        if endpoint.gone or not (aside or health.worth_telling(endpoint.strikes, limit)):
            return
        endpoint.reported = True
        self._report(
            health.ReplicaReport(
                session.session_id, endpoint.replica_id, endpoint.strikes, status, detail, aside
            )
        )

    def note_good_call(self, session: SessionRoute, endpoint: Endpoint) -> None:
        """Note that a call went well at an endpoint where others failed."""
        if health.clear(endpoint):
            self.look(session)
        if endpoint.reported:
            endpoint.reported = False
            self._report(
                health.ReplicaReport(session.session_id, endpoint.replica_id, 0, 200, "", False)
            )

    def may_repeat(self, call: Call) -> bool:
        """Tell whether a call that a replica may have seen is sent again, and spend that."""
        session = call.session
        if not (session.safe_to_retry and session.budget.take(session.calls)):
            return False
        if self.meters is not None:
            self.meters.repeats += 1
        return True

    def hedge(self, call: Call) -> None:
        """Send a call that is without an answer to a second replica, where one is free."""
        session = call.session
        # Those who wait have not had their first try.
        if session.waiting or len(session.endpoints) < 2:
            return
        endpoint = self._chooser.second(call, self.scheduler.time())
        if endpoint is None:
            return
        if not session.budget.take(session.calls):
            self.left(session, endpoint)
            return
        if self.meters is not None:
            self.meters.hedges += 1
        call.hedge = Hedge(self, call, endpoint)
        call.hedge.begin()

    def _note_held(self, session: SessionRoute) -> None:
        """Remember for which accounts a session must be looked at when any of their calls ends."""
        if self._chooser.limits_accounts:
            for tenant in session.waiting.tenants():
                if not self._admits(tenant):
                    tenant.account.held[session] = None
                    self._chooser.mark_account(tenant.account, waits=True)

    def _refusal(self, call: Call) -> CallError | None:
        """Tell why a session takes this call no more, or None."""
        session = call.session
        if session.ended:
            return failures.session_ended(
                session.session_id, session.ended, session.message, session.evidence
            )
        if call.epoch < session.epoch:
            return failures.token_revoked(session.session_id)
        if session.expires and session.expires <= self._wall_clock():
            return failures.session_ended(
                session.session_id, errors_pb2.ERROR_REASON_SESSION_EXPIRED, "", {}
            )
        return None

    def _arm_probe(self, session: SessionRoute) -> None:
        """See to it that an endpoint that was left alone is tried, though nothing becomes free."""
        now = self.scheduler.time()
        pauses = [
            until - now
            for endpoint in session.endpoints
            if endpoint.failures or endpoint.asides
            if (until := max(endpoint.down_until, endpoint.aside_until)) > now
        ]
        blocked = self._chooser.limits_accounts and any(
            tenant.account.blocked for tenant in session.waiting.tenants()
        )
        if session.shared_limit or session.session_limit or blocked:
            self._on_want()
            if self._chooser.polls:
                # Nobody tells what becomes free at other workers. At changing times, as of two
                # workers that look in the same rhythm one might always be the later.
                self._chooser.mark(session, waits=True)
                pauses.append(RETRY_SECONDS * (0.5 + self._rng()))
        if pauses and session.probe is None:
            session.probe = self.scheduler.call_later(min(pauses), self._probe, session)

    def _probe(self, session: SessionRoute) -> None:
        session.probe = None
        for tenant in session.waiting.tenants():
            tenant.account.blocked = False
        self.pump(session)
