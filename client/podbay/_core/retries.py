"""When a call is sent again, and after how long. Pure: time and chance are arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from podbay.errors import PodbayError

__all__ = [
    "FIRST_CONTACT_SECONDS",
    "FIRST_LOOK_SECONDS",
    "TAKEOVER_SECONDS",
    "Attempts",
    "Reconnects",
    "backoff",
    "call_slack",
    "is_transient",
]

FIRST_CONTACT_SECONDS: Final = 5.0
"""How long the first connection to a service may take. A service that was never reached is more
likely not there, or elsewhere, than about to come back."""

FIRST_LOOK_SECONDS: Final = 1.0
"""After how long of these it is looked whether TLS is what is in the way."""

TAKEOVER_SECONDS: Final = 15.0
"""How long it may take until one of the session managers leads, also one that starts anew."""

_FIRST_BACKOFF: Final = 0.1
_LONGEST_BACKOFF: Final = 2.0

_TRANSIENT: Final = frozenset(
    {
        "CONNECTION_LOST",
        "SERVICE_STOPPING",
        "NOT_LEADER",
        "STORE_UNAVAILABLE",
        "DEPENDENCY_UNAVAILABLE",
        "ROUTER_NOT_SYNCED",
        "ROUTER_DRAINING",
        "TRANSFER_INTERRUPTED",
    }
)


def backoff(attempt: int, chance: float) -> float:
    """Return how long to wait before a further try, in seconds.

    Args:
        attempt: How many tries have failed, from 1.
        chance: A random number from 0 up to 1; keeps many clients from coming back as one.
    """
    longest = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2.0 ** min(attempt - 1, 16))
    return longest * (0.5 + chance / 2)


def call_slack(timeout: float) -> float:
    """Return how much longer than the router the client waits for an inference call, in seconds.

    The router's error tells more than the client's, so the client gives it time to arrive.
    """
    return min(2.0, 0.25 + timeout / 20)


def is_transient(error: PodbayError) -> bool:
    """Whether another try at the same call, made in a moment, may go well."""
    return error.reason in _TRANSIENT


@dataclass(slots=True)
class Attempts:
    """The tries at one call.

    Attributes:
        retries: How often it may be sent again.
        safe: Whether it does no harm to run it twice.
        deadline: When all tries end, on the caller's clock.
        made: How many tries have failed, but for those that met nobody who leads.
        leaderless: How many met nobody who leads.
        leaderless_since: When the first of these ended, on the caller's clock.
    """

    retries: int
    safe: bool
    deadline: float
    made: int = 0
    leaderless: int = 0
    leaderless_since: float | None = None

    def next_delay(self, error: PodbayError, now: float, chance: float) -> float | None:
        """Return after how many seconds to try again; None to give up with the error.

        Args:
            error: Why the last try failed.
            now: The time on the clock of `deadline`.
            chance: A random number from 0 up to 1.
        """
        if error.reason == "NOT_LEADER" and self.retries:
            return self._until_one_leads(error, now, chance)
        self.made += 1
        if self.made > self.retries or not is_transient(error):
            return None
        if not (self.safe or error.not_started):
            return None
        return self._delay(self.made, error, now, chance)

    def _until_one_leads(self, error: PodbayError, now: float, chance: float) -> float | None:
        """Wait for the next one: nothing was done, and the tries are kept for what may happen."""
        self.leaderless += 1
        if self.leaderless_since is None:
            self.leaderless_since = now
        if now - self.leaderless_since > TAKEOVER_SECONDS:
            return None
        return self._delay(self.leaderless, error, now, chance)

    def _delay(self, tries: int, error: PodbayError, now: float, chance: float) -> float | None:
        delay = max(backoff(tries, chance), error.retry_after or 0.0)
        return delay if now + delay < self.deadline else None


@dataclass(slots=True)
class Reconnects:
    """The tries to keep a stream that only reads.

    Attributes:
        patience: How long it may be away without a break, in seconds; 0 for no second try.
        attempt: How many tries have failed since it last brought something.
        lost_at: When it was lost, on the caller's clock; None while it is there.
    """

    patience: float
    attempt: int = 0
    lost_at: float | None = None

    def came(self) -> None:
        """Note that the stream brought something."""
        self.attempt = 0
        self.lost_at = None

    def next_delay(self, error: PodbayError, now: float, chance: float) -> float | None:
        """Return after how many seconds to open it again; None to give up with the error.

        Args:
            error: Why it was lost.
            now: The time on the caller's clock.
            chance: A random number from 0 up to 1.
        """
        if not (is_transient(error) or (error.reason == "SERVICE_UNREACHABLE" and self.attempt)):
            return None
        self.attempt += 1
        if self.lost_at is None:
            self.lost_at = now
        delay = max(backoff(self.attempt, chance), error.retry_after or 0.0)
        return delay if now + delay - self.lost_at < self.patience else None
