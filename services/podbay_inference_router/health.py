"""When a replica is left alone because its calls fail, and when it is tried again. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from podbay_inference_router.table import Endpoint

__all__ = [
    "ReplicaReport",
    "aside_seconds",
    "clear",
    "is_failure",
    "is_healthy",
    "strike",
    "worth_telling",
]

_FIRST_ASIDE: Final = 1.0
_LAST_ASIDE: Final = 30.0
_NOT_IMPLEMENTED: Final = 501


class ReplicaReport(NamedTuple):
    """What the session manager is told of a replica."""

    session_id: str
    replica_id: str
    failures: int
    """How many calls failed in a row; 0 says that they succeed again."""
    http_status: int
    """Of the last one; 0 where there was no answer."""
    detail: str
    set_aside: bool


def is_failure(status: int) -> bool:
    """Tell whether an HTTP status says that the replica failed, rather than refused the request."""
    return status >= 500 and status != _NOT_IMPLEMENTED


def aside_seconds(times: int) -> float:
    """Give the seconds that a replica is set aside for the `times`-th time in a row."""
    return float(min(_LAST_ASIDE, _FIRST_ASIDE * 2 ** min(max(times - 1, 0), 10)))


def is_healthy(endpoint: Endpoint) -> bool:
    """Tell whether a replica takes calls as far as is known."""
    return not endpoint.failures and not endpoint.asides


def strike(endpoint: Endpoint, all_of: Sequence[Endpoint], limit: int, now: float) -> bool:
    """Count a failed call, and set the replica aside where it is one too many.

    The last healthy replica of a session is never set aside: a replica that fails some calls is
    better than none.

    Args:
        endpoint: Where the call failed.
        all_of: The replicas of the session.
        limit: How many failed calls in a row are too many; 0 for never.
        now: The time on the clock of `Endpoint.aside_until`.

    Returns:
        Whether it was set aside by this.
    """
    endpoint.strikes += 1
    if not limit or endpoint.gone:
        return False
    # One that is tried after it was set aside has one try, not the whole row.
    if endpoint.strikes < limit and not endpoint.asides:
        return False
    if not any(other is not endpoint and is_healthy(other) for other in all_of):
        return False
    endpoint.asides += 1
    endpoint.aside_until = now + aside_seconds(endpoint.asides)
    return True


def clear(endpoint: Endpoint) -> bool:
    """Note that a call went well.

    Returns:
        Whether the replica was set aside until now.
    """
    was_aside = endpoint.asides > 0
    endpoint.strikes = 0
    endpoint.asides = 0
    endpoint.aside_until = 0.0
    return was_aside


def worth_telling(strikes: int, limit: int) -> bool:
    """Tell whether a row of failures has become twice as long as when it was told last.

    Args:
        strikes: How many calls failed in a row.
        limit: How many are too many; 0 for never.
    """
    if not limit or strikes % limit:
        return False
    times = strikes // limit
    return times & (times - 1) == 0
