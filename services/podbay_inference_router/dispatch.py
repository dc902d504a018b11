"""Which call goes where and when: the choice of a replica, and the queue before it."""

import time
from collections.abc import Callable
from typing import Final

from podbay.v1 import errors_pb2
from podbay.v1.errors_pb2 import CallError
from podbay_inference_router import failures
from podbay_inference_router.balancing import backoff_after, pick
from podbay_inference_router.calls import Call
from podbay_inference_router.ports import Scheduler
from podbay_inference_router.queueing import Refusal, admit
from podbay_inference_router.settings import Settings
from podbay_inference_router.table import Changes, Endpoint, RouteTable, SessionRoute

__all__ = ["Dispatcher"]

_FOREVER: Final = float("inf")


class Dispatcher:
    """Gives calls to endpoints, and lets them wait where none is free.

    Args:
        table: The routes.
        settings: The limits.
        scheduler: Time and timers: the event loop.
        rng: Gives numbers from 0 up to 1, for ties.
        wall_clock: Gives the time of day in seconds since 1970.
    """

    def __init__(
        self,
        table: RouteTable,
        settings: Settings,
        scheduler: Scheduler,
        rng: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.table = table
        self.settings = settings
        self.scheduler = scheduler
        self._rng = rng
        self._wall_clock = wall_clock
        self.active = 0
        """Calls that were submitted and have not ended."""
        self.draining = False

    def submit(self, call: Call, timeout: float) -> None:
        """Begin a call; its sink may hear of its end before this returns.

        Args:
            call: The call.
            timeout: Seconds it may take, queue and work together.
        """
        self.active += 1
        if self.draining:
            call.fail(failures.draining())
        elif timeout <= 0:
            call.on_deadline()
        else:
            call.expires_at = self.scheduler.time() + timeout
            call.timer = self.scheduler.call_later(timeout, call.on_deadline)
            self.route(call)

    def count_done(self, session: SessionRoute) -> None:
        """Count the end of a call of `session`."""
        self.active -= 1
        if not session.known:
            self.table.forget_unknown(session)

    def route(self, call: Call, *, again: bool = False) -> None:
        """Send a call to the best endpoint, or let it wait.

        Args:
            call: The call.
            again: Whether it had its turn before, so that it need not stand behind others.
        """
        session = call.session
        error = self._refusal(call)
        if error is not None:
            call.fail(error)
            return
        now = self.scheduler.time()
        if again or not session.waiting:
            endpoint = self._pick(call, now)
            if endpoint is not None:
                call.begin(endpoint)
                return
        self._wait(call, now, again=again)

    def pump(self, session: SessionRoute) -> None:
        """Let waiting calls go where something became free."""
        if session.pumping:
            return
        session.pumping = True
        try:
            while session.waiting:
                call: Call = session.waiting.first()
                endpoint = self._pick(call, self.scheduler.time())
                if endpoint is None:
                    break
                self.stop_waiting(call)
                call.begin(endpoint)
        finally:
            session.pumping = False
        if session.waiting:
            self._arm_probe(session)

    def stop_waiting(self, call: Call) -> None:
        """Take a call out of the queue, where it is in it."""
        if call.wait_timer is not None:
            call.wait_timer.cancel()
            call.wait_timer = None
            session = call.session
            if call in session.waiting:
                session.waiting.remove(call)

    def note_connect_failure(self, endpoint: Endpoint) -> None:
        """Leave an endpoint alone for a while, because it could not be connected to."""
        endpoint.failures += 1
        endpoint.probing = False
        endpoint.down_until = self.scheduler.time() + backoff_after(endpoint.failures)

    def on_changes(self, changes: Changes) -> None:
        """Look at the waiting calls of sessions that changed."""
        for session in changes.removed:
            for call in session.waiting.take_all():
                call.fail(self._refusal(call) or failures.session_not_found(session.session_id))
        for session in changes.sessions:
            if session.waiting:
                for call in session.waiting.take_all():
                    error = self._refusal(call)
                    if error is not None:
                        call.fail(error)
                    else:
                        session.waiting.add(call)
                self.pump(session)

    def drain(self) -> None:
        """Refuse what is new or waits; what runs goes on."""
        self.draining = True
        for session in self.table.waiting_sessions():
            for call in session.waiting.take_all():
                call.fail(failures.draining())

    def _pick(self, call: Call, now: float) -> Endpoint | None:
        session = call.session
        endpoint = pick(session.endpoints, session.limit, now, self._rng, call.excluded)
        if endpoint is None and call.excluded is not None:
            # Nothing else is there: where a repeat is safe, it is safe at the same replica, too.
            endpoint = pick(session.endpoints, session.limit, now, self._rng)
        return endpoint

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

    def _wait(self, call: Call, now: float, *, again: bool) -> None:
        session = call.session
        if call.waiting_since is None:
            call.waiting_since = now
        seconds, refusal = self._admission(call, now, ahead=0 if again else len(session.waiting))
        if refusal is Refusal.NOT_READY:
            # A caller who allows less time than that shall still hear why, not just "too late".
            seconds = min(seconds, (call.expires_at - now) / 2)
        if seconds <= 0:
            call.fail(self._wait_error(call, refusal))
            return
        session.waiting.add(call, front=again)
        call.wait_timer = self.scheduler.call_later(seconds, self._wait_over, call)
        self._arm_probe(session)

    def _wait_over(self, call: Call) -> None:
        _, refusal = self._admission(call, _FOREVER, ahead=0)
        call.fail(self._wait_error(call, refusal))

    def _admission(self, call: Call, now: float, *, ahead: int) -> tuple[float, Refusal]:
        session, settings = call.session, self.settings
        timeout = session.queue_timeout
        return admit(
            known=session.known,
            since_ready=session.seconds_since_ready(now),
            connectable=any(not endpoint.failures for endpoint in session.endpoints),
            length=ahead,
            max_length=settings.queue_length,
            queue_timeout=settings.queue_timeout if timeout is None else timeout,
            settle=settings.settle_seconds,
            waited=0.0 if call.waiting_since is None else now - call.waiting_since,
        )

    def _wait_error(self, call: Call, refusal: Refusal) -> CallError:
        session = call.session
        name = session.session_id
        if refusal is Refusal.FULL:
            return failures.queue_full(name, len(session.waiting))
        if refusal is Refusal.BUSY:
            since = call.waiting_since
            waited = 0.0 if since is None else self.scheduler.time() - since
            return failures.queue_timeout(name, waited, len(session.waiting))
        if refusal is Refusal.UNREACHABLE and call.connect_failure is not None:
            return failures.unreachable(name, *call.connect_failure)
        if not session.known:
            return failures.session_not_found(name)
        return failures.session_not_ready(name, session.message, session.evidence)

    def _arm_probe(self, session: SessionRoute) -> None:
        """See to it that an endpoint that was down is tried again, though nothing becomes free."""
        now = self.scheduler.time()
        pauses = [
            endpoint.down_until - now
            for endpoint in session.endpoints
            if endpoint.failures and endpoint.down_until > now
        ]
        if pauses and session.probe is None:
            session.probe = self.scheduler.call_later(min(pauses), self._probe, session)

    def _probe(self, session: SessionRoute) -> None:
        session.probe = None
        self.pump(session)
