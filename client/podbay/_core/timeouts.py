"""How long calls may take."""

from __future__ import annotations

import math
from typing import Any, Final

from podbay._core.wire_errors import invalid

__all__ = ["LEAST_SECONDS", "check_timeout"]

LEAST_SECONDS = 0.001
"""What is left of a time that has run out: gRPC takes none that is 0 or less."""

# More than thirty years. Beyond it clocks, locks and protobuf overflow, each at another number.
_MOST_SECONDS: Final = 1e9


def check_timeout(timeout: float | None, default: float, what: str = "The call") -> float:
    """Return how long a call may take, in seconds; more than 1,000,000,000 counts as that.

    Args:
        timeout: What was given; None for the default.
        default: What counts unless it was given.
        what: Whose timeout it is, for the error.

    Raises:
        InvalidRequestError: It is not a number above 0.
    """
    seconds: Any = default if timeout is None else timeout
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not (is_number and 0 < seconds < math.inf):
        raise invalid("timeout", "must be a number of seconds above 0", what)
    return float(min(seconds, _MOST_SECONDS))
