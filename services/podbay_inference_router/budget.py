"""How many calls may be sent twice. Pure."""

from typing import Final

__all__ = ["RetryBudget"]

# What a session may spend at once, also when it has had few calls: a handful of failures of a
# quiet session can be repeated, a storm cannot.
_MOST: Final = 10.0


class RetryBudget:
    """Lets a share of a session's calls be sent a second time, and no more.

    When every call fails, repeating each would double the load on replicas that are in trouble
    already. It counts repeats and hedges of calls that a replica may have seen. A call that no
    connection was made for has cost no replica anything, and moves on without it.

    Args:
        ratio: The share, as 0.1.
    """

    __slots__ = ("_balance", "_ratio", "_seen")

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._balance = _MOST if ratio > 0 else 0.0
        self._seen = 0

    def take(self, calls: int) -> bool:
        """Spend one repeat.

        Args:
            calls: How many calls the session has had in all.

        Returns:
            Whether there was one to spend.
        """
        self._balance = min(_MOST, self._balance + (calls - self._seen) * self._ratio)
        self._seen = calls
        # A thousand additions of a tenth are not quite a hundred.
        if self._ratio <= 0 or self._balance < 1.0 - 1e-6:
            return False
        self._balance -= 1.0
        return True
