"""A large route table: 10,000 sessions of 4 replicas. How long a choice takes, and a change.

`python -m benchmarks.routes` prints the figures.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.figures import percentile
from podbay.v1.session_manager_service_pb2 import (
    ROUTE_STATE_OPEN,
    Route,
    RouteEndpoint,
    WatchRoutesResponse,
)
from podbay_inference_router.balancing import pick
from podbay_inference_router.settings import Settings
from podbay_inference_router.table import RouteTable

__all__ = ["Routes", "measure"]

_SESSIONS = 10_000
_REPLICAS = 4
_CHOICES = 200_000
_CHANGES = 2_000


class Routes(NamedTuple):
    """Medians, in seconds of CPU time.

    Attributes:
        choice: To find a session, and to choose one of its replicas.
        change: To read and apply the news that a session's replica was replaced.
        slowest: The 99th percentile of that.
        snapshot: To read and apply all routes at once, as at a start.
    """

    choice: float
    change: float
    slowest: float
    snapshot: float


class _Upstream:
    """An endpoint's connections: none."""

    def send(self, *_request: Any) -> None:
        raise AssertionError("nothing is sent here")

    def close(self) -> None:
        pass


def _route(number: int, generation: int) -> Route:
    endpoints = [
        RouteEndpoint(
            # One of them is another with each generation.
            replica_id=f"{number:030}-{generation if at == 0 else 0}-{at}",
            host="127.0.0.1",
            port=1 + (number * _REPLICAS + at) % 65_535,
        )
        for at in range(_REPLICAS)
    ]
    return Route(
        session_id=f"{number:032}",
        account="a",
        epoch=1,
        state=ROUTE_STATE_OPEN,
        endpoints=endpoints,
    )


def _timed(action: Callable[[], object]) -> float:
    """Return the CPU seconds of an action, which the load of the machine does not stretch."""
    began = time.thread_time()
    action()
    return time.thread_time() - began


def measure() -> Routes:
    """Build the table, and time what is done with it."""
    table = RouteTable(lambda _host, _port: _Upstream(), Settings())
    snapshot = WatchRoutesResponse(
        snapshot=True, revision=1, routes=[_route(number, 0) for number in range(_SESSIONS)]
    ).SerializeToString()

    def apply(message: bytes) -> None:
        table.apply(WatchRoutesResponse.FromString(message), 0.0)

    whole = _timed(lambda: apply(snapshot))
    lots = random.Random(1)
    # Loads differ, as they do where calls run.
    for number in range(_SESSIONS):
        for endpoint in _session(table, number).endpoints:
            endpoint.outstanding = lots.randrange(4)
    names = [f"{lots.randrange(_SESSIONS):032}" for _ in range(_CHOICES)]

    def choose() -> None:
        for name in names:
            found = table.find(name)
            if found is None or pick(found.endpoints, found.limit, 0.0, lots.random) is None:
                raise AssertionError("there is a free replica")

    choices = [_timed(choose) / _CHOICES for _ in range(5)]
    messages = [
        WatchRoutesResponse(
            revision=2 + at, routes=[_route(lots.randrange(_SESSIONS), 1 + at)]
        ).SerializeToString()
        for at in range(_CHANGES)
    ]
    changes = [_timed(lambda message=message: apply(message)) for message in messages]  # type: ignore[misc] # bound for each
    return Routes(
        statistics.median(choices), statistics.median(changes), percentile(changes, 0.99), whole
    )


def _session(table: RouteTable, number: int) -> Any:
    return table.find(f"{number:032}")


def main() -> None:
    found = measure()
    print(f"{_SESSIONS} sessions of {_REPLICAS} replicas:")
    print(f"a choice             {found.choice * 1e6:9.2f} µs")
    print(f"a change             {found.change * 1e6:9.2f} µs, 99th {found.slowest * 1e6:.2f} µs")
    print(f"the whole table      {found.snapshot * 1e3:9.2f} ms")


if __name__ == "__main__":
    main()
