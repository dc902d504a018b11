"""Which replica gets a call. Pure."""

from collections.abc import Callable, Sequence

from podbay_inference_router.health import is_healthy
from podbay_inference_router.ring import HashRing, load_bound
from podbay_inference_router.table import Endpoint

__all__ = ["backoff_after", "pick", "pick_by_key"]

_FIRST_BACKOFF = 0.05
_LAST_BACKOFF = 2.0


def pick(
    endpoints: Sequence[Endpoint],
    limit: int,
    now: float,
    rng: Callable[[], float],
    exclude: Endpoint | None = None,
) -> Endpoint | None:
    """Choose the endpoint with the fewest outstanding calls, by lot among equals.

    An endpoint that could not be connected to, or was set aside because its calls fail, is left
    alone until its pause is over, and then tried by one call. Where no other is left, those that
    were set aside take calls all the same.

    Args:
        endpoints: The endpoints of a session.
        limit: The most calls that one of them may have.
        now: The time on the clock of `Endpoint.down_until`.
        rng: Gives numbers from 0 up to 1.
        exclude: An endpoint that the call shall not go to again.

    Returns:
        The endpoint, or None where none is free.
    """
    best: Endpoint | None = None
    least = limit
    ties = 1
    troubled = False
    for endpoint in endpoints:
        load = endpoint.outstanding
        if endpoint.failures or endpoint.asides:
            troubled = True
            if not _may_try(endpoint, now):
                continue
        if load > least or load >= limit or endpoint is exclude:
            continue
        if load < least:
            best = endpoint
            least = load
            ties = 1
        else:
            ties += 1
            if rng() * ties < 1.0:
                best = endpoint
    if best is None and troubled and not any(map(is_healthy, endpoints)):
        return _pick_aside(endpoints, limit, exclude)
    return best


def pick_by_key(
    endpoints: Sequence[Endpoint],
    limit: int,
    now: float,
    ring: HashRing,
    key: str,
    exclude: Endpoint | None = None,
) -> Endpoint | None:
    """Choose the endpoint that a key belongs to, or the next on the ring that has room.

    Args:
        endpoints: The endpoints of a session, in the order of the ring's names.
        limit: The most calls that one of them may have.
        now: The time on the clock of `Endpoint.down_until`.
        ring: The ring of the endpoints' replicas.
        key: What calls that belong together share.
        exclude: An endpoint that the call shall not go to again.

    Returns:
        The endpoint; None where none is both free and below its share.
    """
    total = sum(endpoint.outstanding for endpoint in endpoints) + 1
    most = min(limit, load_bound(total, len(endpoints) or 1))
    for index in ring.order(key):
        endpoint = endpoints[index]
        if endpoint is exclude or endpoint.outstanding >= most:
            continue
        if is_healthy(endpoint) or _may_try(endpoint, now):
            return endpoint
    return None


def backoff_after(failures: int) -> float:
    """Give the seconds that an endpoint is left alone after so many failed connects in a row."""
    return float(min(_LAST_BACKOFF, _FIRST_BACKOFF * 2 ** min(failures - 1, 10)))


def _may_try(endpoint: Endpoint, now: float) -> bool:
    """Whether one call may try an endpoint that is in trouble."""
    return not endpoint.probing and now >= endpoint.down_until and now >= endpoint.aside_until


def _pick_aside(
    endpoints: Sequence[Endpoint], limit: int, exclude: Endpoint | None
) -> Endpoint | None:
    """Choose among those that can be connected to and were set aside."""
    left = [
        endpoint
        for endpoint in endpoints
        if not endpoint.failures and endpoint.outstanding < limit and endpoint is not exclude
    ]
    return min(left, key=lambda endpoint: endpoint.outstanding, default=None)
