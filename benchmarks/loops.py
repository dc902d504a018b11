"""How a load is driven: so many calls in flight, for so many requests or seconds.

Needs the standard library only, so that loads which run in an environment without Podbay use it,
too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from benchmarks.figures import Sample, percentile

__all__ = ["BEGIN", "concurrently", "one_by_one", "until_up"]

BEGIN = "begin"
"""What a load prints when its warm-up is over, where it is asked to."""

_WARM_UP = 50
_FOREVER = 1 << 62


async def concurrently(
    call: Callable[[], Awaitable[int]],
    in_flight: int,
    *,
    requests: int = _FOREVER,
    seconds: float = 600.0,
    announce: bool = False,
) -> Sample:
    """Keep `in_flight` calls going.

    Args:
        call: Makes one call and returns how many items it brought.
        in_flight: How many.
        requests: How many calls to make.
        seconds: How long to begin calls, where that is over sooner.
        announce: Whether to print `BEGIN` when the warm-up is over.
    """
    for _ in range(_WARM_UP):
        await call()
    if announce:
        print(BEGIN, flush=True)
    left, items = requests, 0
    latencies: list[float] = []
    clock = time.perf_counter

    async def one_after_another() -> None:
        nonlocal left, items
        while left > 0 and (started := clock()) < last:
            left -= 1
            came = await call()
            items += came
            latencies.append(clock() - started)

    cpu, begun = time.process_time(), clock()
    last = begun + seconds
    await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
    return _sample(latencies, clock() - begun, items, time.process_time() - cpu)


def one_by_one(call: Callable[[], int], requests: int) -> Sample:
    """Make calls one after the other.

    Args:
        call: Makes one call and returns how many items it brought.
        requests: How many.
    """
    for _ in range(_WARM_UP):
        call()
    latencies, items = [], 0
    cpu, begun = time.process_time(), time.perf_counter()
    for _ in range(requests):
        started = time.perf_counter()
        items += call()
        latencies.append(time.perf_counter() - started)
    return _sample(latencies, time.perf_counter() - begun, items, time.process_time() - cpu)


async def until_up(call: Callable[[], Awaitable[int]], seconds: float = 60.0) -> None:
    """Repeat a call until it succeeds once.

    Raises:
        Exception: What the last try raised.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            await call()
        except Exception:  # every system has its own words for "not yet"
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
        else:
            return


def _sample(latencies: list[float], seconds: float, items: int, cpu: float) -> Sample:
    return Sample(
        requests=len(latencies),
        seconds=seconds,
        p50=percentile(latencies, 0.5),
        p99=percentile(latencies, 0.99),
        items=items,
        load_cpu=cpu,
    )
