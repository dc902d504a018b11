"""Whether and how long a call waits for a replica. Pure."""

from enum import Enum
from typing import NamedTuple

__all__ = ["Admission", "Bounds", "Line", "Refusal", "admit", "retry_delay"]

# A caller that is refused shall come back neither at once nor never.
_LEAST_DELAY = 0.05
_MOST_DELAY = 60.0
_UNKNOWN_DELAY = 1.0


class Refusal(Enum):
    """Why a call does not wait, or waits no longer."""

    NOT_READY = "the session has no ready replica"
    FULL = "as many calls of the session wait as may"
    BUSY = "all replicas are at their limit"
    UNREACHABLE = "no replica can be connected to"
    ACCOUNT_FULL = "as many calls of the account wait as may"
    ACCOUNT_BUSY = "the account has as many calls running as it may"
    TOO_LATE = "the queue is longer than the call's time"


class Admission(NamedTuple):
    """The decision: wait `seconds`, or, where that is not above 0, the refusal."""

    seconds: float
    refusal: Refusal


class Bounds(NamedTuple):
    """The limits that hold for a call that would wait."""

    max_length: int
    """The most calls of the session that wait."""
    queue_timeout: float
    """Seconds a call may wait; 0 refuses at once."""
    settle: float
    """Seconds a call waits for a session that is not known."""
    account_length: int = 0
    """The most calls of the account that wait, over all sessions; 0 for no limit."""
    account_timeout: float = float("inf")
    """Seconds a call may wait because its account has too many running."""


class Line(NamedTuple):
    """What a call would stand behind."""

    length: int
    """How many calls of the session wait already."""
    account_length: int = 0
    """How many calls of the account wait already, over all sessions."""
    account_held: bool = False
    """Whether the account has as many calls running as it may."""
    expected: float | None = None
    """Seconds until the call's turn, as measured; None where that is not known."""


def admit(
    bounds: Bounds,
    line: Line,
    *,
    known: bool,
    since_ready: float | None,
    connectable: bool,
    waited: float,
    left: float = float("inf"),
) -> Admission:
    """Decide about a call for which no replica is free.

    - A session whose replicas are busy, or cannot be connected to just now, makes its calls wait
      for as long as the queue allows.
    - So does one whose last replica went away less than that ago: it is about to be replaced.
    - One that was never ready, or not for long, refuses at once, with what is known of the cause.
    - One that nobody told of makes its calls wait for a moment, in which the news may arrive.
    - A call whose turn would come after its deadline is refused before it costs anything.

    Args:
        bounds: The limits.
        line: What the call would stand behind.
        known: Whether the session manager has told of the session.
        since_ready: Seconds since the session had an endpoint; 0 while it has, None if it never
            had.
        connectable: Whether any endpoint of the session could be connected to when last tried.
        waited: Seconds that this call has waited already.
        left: Seconds until the call's deadline.

    Returns:
        How much longer to wait, and the refusal for the end of that time.
    """
    timeout = bounds.queue_timeout
    if since_ready is None or since_ready >= timeout > 0:
        refusal, allowed = Refusal.NOT_READY, 0.0 if known else bounds.settle
    elif since_ready > 0:
        refusal, allowed = Refusal.NOT_READY, timeout
    elif not connectable:
        refusal, allowed = Refusal.UNREACHABLE, timeout
    elif line.account_held:
        refusal, allowed = Refusal.ACCOUNT_BUSY, min(timeout, bounds.account_timeout)
    else:
        refusal, allowed = Refusal.BUSY, timeout
    seconds = allowed - waited
    if seconds > 0:
        if bounds.account_length and line.account_length >= bounds.account_length:
            return Admission(0.0, Refusal.ACCOUNT_FULL)
        if line.length >= bounds.max_length:
            return Admission(0.0, Refusal.FULL)
        if refusal is Refusal.BUSY and line.expected is not None and line.expected > left:
            return Admission(0.0, Refusal.TOO_LATE)
    return Admission(seconds, refusal)


def retry_delay(expected: float | None) -> float:
    """Give the seconds after which a refused caller may come back.

    Args:
        expected: Seconds until the queue has moved on, as measured; None where that is not known.
    """
    if expected is None:
        return _UNKNOWN_DELAY
    return min(_MOST_DELAY, max(_LEAST_DELAY, expected))
