"""How fast the queue of a session moves. Pure."""

from typing import Final

__all__ = ["DrainRate"]

# A measurement is taken over this time, and the one before it weighs as much as this time does.
_WINDOW_SECONDS: Final = 1.0
# Fewer calls than this say nothing yet.
_ENOUGH: Final = 3


class DrainRate:
    """Measures how many calls a second leave a queue while calls wait in it.

    What is finished while nobody waits says how busy the callers are, not how fast the replicas
    are, so it is not counted.
    """

    __slots__ = ("_began", "_count", "_rate")

    def __init__(self) -> None:
        self._began = 0.0
        self._count = 0
        self._rate: float | None = None

    @property
    def measured(self) -> bool:
        """Whether a whole measurement was ever made, so that decisions may rest on it."""
        return self._rate is not None

    def begin(self, now: float) -> None:
        """Note that the queue is no longer empty.

        Args:
            now: The time, in seconds.
        """
        self._began = now
        self._count = 0

    def note(self, now: float) -> None:
        """Note that a call was finished while others wait."""
        self._count += 1
        elapsed = now - self._began
        if elapsed >= _WINDOW_SECONDS and self._count >= _ENOUGH:
            self._rate = self._estimate(elapsed)
            self.begin(now)

    def seconds_for(self, calls: int, now: float) -> float | None:
        """Tell how long it takes until so many waiting calls have left.

        Args:
            calls: How many.
            now: The time, in seconds.

        Returns:
            Seconds; None where too little was seen to tell.
        """
        elapsed = now - self._began
        if self._rate is None and (self._count < _ENOUGH or elapsed <= 0):
            return None
        # Without news the rate falls: a queue that stands still is not about to be empty.
        return calls / self._estimate(elapsed)

    def _estimate(self, elapsed: float) -> float:
        if self._rate is None:
            return self._count / max(elapsed, 1e-3)
        return (self._count + self._rate * _WINDOW_SECONDS) / (elapsed + _WINDOW_SECONDS)
