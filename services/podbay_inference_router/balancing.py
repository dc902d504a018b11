"""Which replica gets a call. Pure."""

from collections.abc import Callable, Sequence

from podbay_inference_router.table import Endpoint

__all__ = ["backoff_after", "pick"]

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

    An endpoint that could not be connected to is left alone until its pause is over, and then
    tried by one call.

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
    for endpoint in endpoints:
        load = endpoint.outstanding
        if load > least or load >= limit or endpoint is exclude:
            continue
        if endpoint.failures and (endpoint.probing or now < endpoint.down_until):
            continue
        if load < least:
            best = endpoint
            least = load
            ties = 1
        else:
            ties += 1
            if rng() * ties < 1.0:
                best = endpoint
    return best


def backoff_after(failures: int) -> float:
    """Give the seconds that an endpoint is left alone after so many failed connects in a row."""
    return float(min(_LAST_BACKOFF, _FIRST_BACKOFF * 2 ** min(failures - 1, 10)))
