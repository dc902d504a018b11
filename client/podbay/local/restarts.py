"""When to restart a service that died: a pure decision."""

from __future__ import annotations

import signal
from dataclasses import dataclass

__all__ = ["RestartPolicy", "describe_exit"]


@dataclass(frozen=True)
class RestartPolicy:
    """How long to wait before a service is started again.

    One that ran steadily is started again at once.

    Attributes:
        first: Seconds before the second restart in a row.
        longest: Seconds that no wait exceeds.
        factor: By how much each wait is longer than the one before.
        steady_after: Seconds after which a run counts as steady, so that waits begin anew.
    """

    first: float = 0.1
    longest: float = 5.0
    factor: float = 2.0
    steady_after: float = 10.0

    def failures(self, before: int, ran_for: float) -> int:
        """Return the number of failures in a row, after one more.

        Args:
            before: How many there were before this run.
            ran_for: Seconds that the run lasted.
        """
        return 1 if ran_for >= self.steady_after else before + 1

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row."""
        if failures <= 1:
            return 0.0
        # The exponent is bounded: a float overflows long before a count does.
        return min(self.longest, self.first * self.factor ** min(failures - 2, 64))


def describe_exit(code: int) -> str:
    """Say how a process ended.

    Args:
        code: Its exit code; a negative one is the signal that killed it.
    """
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}"
