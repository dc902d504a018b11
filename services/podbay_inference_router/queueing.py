"""Whether and how long a call waits for a replica, and in which order. Pure."""

from collections import OrderedDict
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Admission", "Refusal", "WaitingLine", "admit"]


class Refusal(Enum):
    """Why a call does not wait, or waits no longer."""

    NOT_READY = "the session has no ready replica"
    FULL = "as many calls wait as may"
    BUSY = "all replicas are at their limit"
    UNREACHABLE = "no replica can be connected to"


class Admission(NamedTuple):
    """The decision: wait `seconds`, or, where that is not above 0, the refusal."""

    seconds: float
    refusal: Refusal


def admit(
    *,
    known: bool,
    since_ready: float | None,
    connectable: bool,
    length: int,
    max_length: int,
    queue_timeout: float,
    settle: float,
    waited: float,
) -> Admission:
    """Decide about a call for which no replica is free.

    - A session whose replicas are busy, or cannot be connected to just now, makes its calls wait
      for as long as the queue allows.
    - So does one whose last replica went away less than that ago: it is about to be replaced.
    - One that was never ready, or not for long, refuses at once, with what is known of the cause.
    - One that nobody told of makes its calls wait for a moment, in which the news may arrive.

    Args:
        known: Whether the session manager has told of the session.
        since_ready: Seconds since the session had an endpoint; 0 while it has, None if it never
            had.
        connectable: Whether any endpoint of the session could be connected to when last tried.
        length: How many calls wait already.
        max_length: How many may.
        queue_timeout: Seconds a call may wait; 0 refuses at once.
        settle: Seconds a call waits for a session that is not known.
        waited: Seconds that this call has waited already.

    Returns:
        How much longer to wait, and the refusal for the end of that time.
    """
    if since_ready is None or since_ready >= queue_timeout > 0:
        refusal, allowed = Refusal.NOT_READY, 0.0 if known else settle
    elif since_ready > 0:
        refusal, allowed = Refusal.NOT_READY, queue_timeout
    elif not connectable:
        refusal, allowed = Refusal.UNREACHABLE, queue_timeout
    else:
        refusal, allowed = Refusal.BUSY, queue_timeout
    left = allowed - waited
    if left > 0 and length >= max_length:
        return Admission(0.0, Refusal.FULL)
    return Admission(left, refusal)


_T = TypeVar("_T")


class WaitingLine(Generic[_T]):
    """Calls in the order they came, from which any can step out."""

    __slots__ = ("_line",)

    def __init__(self) -> None:
        # A dict would do, but finding its first member is slow after many were taken out.
        self._line: OrderedDict[_T, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._line)

    def __bool__(self) -> bool:
        return bool(self._line)

    def __contains__(self, call: _T) -> bool:
        return call in self._line

    def add(self, call: _T, *, front: bool = False) -> None:
        """Let a call wait: at the end, or in front of all where it had its turn before."""
        self._line[call] = None
        if front:
            self._line.move_to_end(call, last=False)

    def first(self) -> _T:
        """Return the call whose turn is next."""
        return next(iter(self._line))

    def remove(self, call: _T) -> None:
        """Take a call out, wherever it stands."""
        del self._line[call]

    def calls(self) -> list[_T]:
        """Return all calls, in their order."""
        return list(self._line)

    def take_all(self) -> list[_T]:
        """Take all calls out, in their order."""
        calls = self.calls()
        self._line.clear()
        return calls
