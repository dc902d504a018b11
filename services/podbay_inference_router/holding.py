"""The wait of a call for a replica: whether, how long, and what is said when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from podbay_inference_router import failures
from podbay_inference_router.queueing import Admission, Bounds, Line, Refusal, admit, retry_delay

if TYPE_CHECKING:
    from podbay.v1.errors_pb2 import CallError
    from podbay_inference_router.calls import Call
    from podbay_inference_router.ports import Scheduler
    from podbay_inference_router.settings import Settings

__all__ = ["Holding"]

_FOREVER: Final = float("inf")


class Holding:
    """Puts calls into the lines of their sessions, and takes them out.

    Args:
        settings: The limits.
        scheduler: Time and timers.
    """

    def __init__(self, settings: Settings, scheduler: Scheduler) -> None:
        self._settings = settings
        self._scheduler = scheduler

    def hold(self, call: Call, now: float, *, again: bool, held: bool) -> CallError | None:
        """Let a call wait, unless it may not.

        Args:
            call: The call.
            now: The time on the scheduler's clock.
            again: Whether it had its turn before, so that it goes before the others.
            held: Whether its account has as many calls running as it may.

        Returns:
            Why it does not wait; None where it does.
        """
        session = call.session
        if call.waiting_since is None:
            call.waiting_since = now
        call.held = held
        seconds, refusal = self._admission(call, now, again=again)
        if refusal is Refusal.FULL and seconds <= 0 and not again:
            other: Call | None = session.waiting.crowded_out_by(call.tenant)
            if other is not None:
                other.fail(self._crowded_out(other, now))
                seconds, refusal = self._admission(call, now, again=again)
        if refusal is Refusal.NOT_READY:
            # A caller who allows less time than that shall still hear why, not just "too late".
            seconds = min(seconds, (call.expires_at - now) / 2)
        if seconds <= 0:
            return self._error(call, refusal, now)
        if not session.waiting:
            session.rate.begin(now)
        session.waiting.add(call, call.tenant, front=again)
        call.in_line = True
        call.wait_timer = self._scheduler.call_later(seconds, self._over, call)
        return None

    def release(self, call: Call) -> None:
        """Take a call out of its line, where it is in one, and stop its timer."""
        if call.wait_timer is not None:
            call.wait_timer.cancel()
            call.wait_timer = None
        if call.in_line:
            call.in_line = False
            # The line may have been emptied as a whole.
            if call in call.tenant.lane:
                call.session.waiting.remove(call, call.tenant)

    def _over(self, call: Call) -> None:
        _, refusal = self._admission(call, _FOREVER, again=True)
        call.fail(self._error(call, refusal, self._scheduler.time()))

    def _admission(self, call: Call, now: float, *, again: bool) -> Admission:
        session, settings = call.session, self._settings
        timeout, length = session.queue_timeout, session.queue_length
        account_timeout = settings.account_queue_timeout
        return admit(
            Bounds(
                settings.queue_length if length is None else length,
                settings.queue_timeout if timeout is None else timeout,
                settings.settle_seconds,
                settings.account_queue_length,
                _FOREVER if account_timeout is None else account_timeout,
            ),
            Line(0, account_held=call.held) if again else self._line(call, now),
            known=session.known,
            since_ready=session.seconds_since_ready(now),
            connectable=any(not endpoint.failures for endpoint in session.endpoints),
            waited=0.0 if call.waiting_since is None else now - call.waiting_since,
            left=call.expires_at - now,
        )

    def _line(self, call: Call, now: float) -> Line:
        session, tenant = call.session, call.tenant
        expected = None
        if session.waiting and session.rate.measured:
            # All that are ahead must leave, and one more place must become free.
            expected = session.rate.seconds_for(session.waiting.ahead_of(tenant) + 1, now)
        return Line(len(session.waiting), tenant.account.waiting, call.held, expected)

    def _delay(self, call: Call, now: float) -> float:
        """Give the seconds after which the line, as it is now, has moved on."""
        session = call.session
        return retry_delay(session.rate.seconds_for(max(1, len(session.waiting)), now))

    def _crowded_out(self, call: Call, now: float) -> CallError:
        session = call.session
        return failures.crowded_out(
            session.session_id,
            call.tenant.account.name,
            len(session.waiting),
            self._delay(call, now),
        )

    def _error(self, call: Call, refusal: Refusal, now: float) -> CallError:
        session, account = call.session, call.tenant.account
        name, length = session.session_id, len(session.waiting)
        match refusal:
            case Refusal.FULL:
                return failures.queue_full(name, length, self._delay(call, now))
            case Refusal.BUSY:
                since = now if call.waiting_since is None else call.waiting_since
                return failures.queue_timeout(name, now - since, length, self._delay(call, now))
            case Refusal.ACCOUNT_FULL | Refusal.ACCOUNT_BUSY:
                return failures.account_limit(
                    account.name,
                    running=account.running,
                    waiting=account.waiting,
                    limit=account.told_limit,
                    delay=self._delay(call, now),
                )
            case Refusal.TOO_LATE:
                expected = self._line(call, now).expected or 0.0
                return failures.too_late(name, expected, call.expires_at - now, length)
            case Refusal.UNREACHABLE if call.connect_failure is not None:
                return failures.unreachable(name, *call.connect_failure)
            case _ if not session.known:
                return failures.session_not_found(name)
            case _:
                return failures.session_not_ready(name, session.message, session.evidence)
