"""The router's numbers for Prometheus, on an HTTP port of their own.

The library serves them from a thread of its own; what it shows is taken in the event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError as FutureCancelledError
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from podbay_inference_router.meters import BOUNDS, Numbers, merged
from podbay_kit.starting import ListenError, StartError, split_address

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.metrics_core import Metric

__all__ = [
    "NUMBERS_PREFIX",
    "MetricsServer",
    "WorkerNumbers",
    "check_available",
    "push_numbers",
    "tell_parent",
    "write_numbers",
]

NUMBERS_PREFIX: Final = "numbers "
"""How a line begins in which a worker tells its parent its numbers."""

_PUSH_SECONDS: Final = 1.0
_TAKE_SECONDS: Final = 2.0
_NAME: Final = "podbay_router"


def check_available() -> None:
    """Make sure that the library is there.

    Raises:
        StartError: It is not installed.
    """
    try:
        import prometheus_client  # noqa: F401, PLC0415 # an extra
    except ImportError as error:
        raise StartError(
            "--metrics-listen needs the extra 'telemetry': pip install 'podbay[telemetry]'."
        ) from error


class WorkerNumbers:
    """The numbers of all workers of one router, those that have ended included.

    A counter must never fall, so what an ended worker had counted is kept.
    """

    def __init__(self) -> None:
        self._ended: list[Numbers] = []
        self._live: dict[int, Numbers] = {}

    def take(self, worker: int, line: str) -> None:
        """Take what a worker told.

        Args:
            worker: Which one.
            line: Its line, without the prefix.
        """
        self._live[worker] = json.loads(line)

    def end(self, worker: int) -> None:
        """Note that a worker has ended: its counters stay, its gauges go."""
        last = self._live.pop(worker, None)
        if last is not None:
            self._ended = [merged([*self._ended, last["counters"]])]

    def total(self) -> Numbers:
        """Return the sum."""
        live = list(self._live.values())
        return {
            "counters": merged([*self._ended, *(item["counters"] for item in live)]),
            "gauges": {**merged([item["gauges"] for item in live]), "workers": len(live)},
        }


async def push_numbers(numbers: Callable[[], Numbers]) -> None:
    """Tell the parent this worker's numbers, every second, on the standard output."""
    while True:
        await asyncio.to_thread(write_numbers, numbers())
        await asyncio.sleep(_PUSH_SECONDS)


def write_numbers(numbers: Numbers) -> None:
    """Tell the parent this worker's numbers once."""
    tell_parent(f"{NUMBERS_PREFIX}{json.dumps(numbers, separators=(',', ':'))}")


def tell_parent(line: str) -> None:
    """Write a line for the process that started this worker, where that still runs."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads any more. What is in the buffer would be tried again at the end.
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


class MetricsServer:
    """Serves numbers at `/metrics`.

    Args:
        listen: The address, as "127.0.0.1:9100".
        numbers: Returns the numbers; called in the event loop.

    Raises:
        ListenError: The address cannot be had.
    """

    def __init__(self, listen: str, numbers: Callable[[], Numbers]) -> None:
        from prometheus_client import (  # noqa: PLC0415 # an extra
            CollectorRegistry,
            start_http_server,
        )

        self._loop = asyncio.get_running_loop()
        self._numbers = numbers
        registry = CollectorRegistry()
        registry.register(self)
        host, port = split_address(listen)
        server: WSGIServer
        thread: threading.Thread
        try:
            server, thread = start_http_server(port, host, registry)
        except OSError as error:
            raise ListenError(
                f"Cannot listen on {listen} for metrics: the port is taken, or the address is not "
                "one of this machine."
            ) from error
        self._server, self._thread = server, thread
        self.port: int = server.server_port

    def collect(self) -> Iterable[Metric]:
        """Return the metrics; called in the library's thread."""
        taken = asyncio.run_coroutine_threadsafe(self._take(), self._loop)
        try:
            numbers = taken.result(_TAKE_SECONDS)
        except (TimeoutError, FutureCancelledError):
            return []  # the router is about to stop, or too busy to say
        return list(_metrics(numbers))

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what there is shows when it is collected."""
        return []

    async def stop(self) -> None:
        """Stop serving."""
        await asyncio.to_thread(self._server.shutdown)
        self._server.server_close()
        await asyncio.to_thread(self._thread.join)

    async def _take(self) -> Numbers:
        return self._numbers()


def _metrics(numbers: Numbers) -> Iterator[Metric]:
    from prometheus_client.core import (  # noqa: PLC0415 # an extra
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    counters: dict[str, Any] = numbers["counters"]
    gauges: dict[str, Any] = numbers["gauges"]
    for name, text in (
        ("requests", "Calls that have ended, well or not, and those that were refused."),
        ("set_asides", "How often a replica was set aside because its calls failed."),
    ):
        yield CounterMetricFamily(f"{_NAME}_{name}", text, value=counters.get(name, 0))
    errors = CounterMetricFamily(f"{_NAME}_errors", "Calls that failed.", labels=["reason"])
    for reason, count in sorted(counters.get("errors", {}).items()):
        errors.add_metric([reason], count)
    yield errors
    retries = CounterMetricFamily(
        f"{_NAME}_retries",
        "Calls that were sent a second time: again after a lost connection, to a second replica "
        "because the first was slow, or on from one that could not be connected to.",
        labels=["kind"],
    )
    for kind, name in (("repeat", "repeats"), ("hedge", "hedges"), ("reconnect", "reconnects")):
        retries.add_metric([kind], counters.get(name, 0))
    yield retries
    for name, text in (
        ("latency", "How long calls took from their arrival to their end."),
        ("first_piece", "How long streamed calls took to their first piece."),
        ("queue", "How long calls waited that had to."),
    ):
        if name in counters:
            yield HistogramMetricFamily(
                f"{_NAME}_{name}_seconds",
                text,
                buckets=_buckets(counters[name]["counts"]),
                sum_value=counters[name]["sum"],
            )
    for name, text in (
        ("active", "Calls that have not ended."),
        ("workers", "Workers that serve."),
        ("synced", "Workers that know their routes."),
    ):
        yield GaugeMetricFamily(f"{_NAME}_{name}", text, value=gauges.get(name, 0))
    waiting = GaugeMetricFamily(f"{_NAME}_waiting", "Calls that wait.", labels=["session"])
    for session, count in sorted(gauges.get("waiting", {}).items()):
        waiting.add_metric([session], count)
    yield waiting
    for name, text in (
        ("outstanding", "Calls that a replica works on."),
        ("set_aside", "How many workers have set a replica aside."),
    ):
        family = GaugeMetricFamily(f"{_NAME}_{name}", text, labels=["session", "replica"])
        for key, count in sorted(gauges.get(name, {}).items()):
            family.add_metric(key.split(" ", 1), count)
        yield family


def _buckets(counts: list[int]) -> list[tuple[str, float]]:
    """Return the buckets as Prometheus has them: each with all that are below it."""
    ends = [*(str(float(bound)) for bound in BOUNDS), "+Inf"]
    return list(zip(ends, map(float, itertools.accumulate(counts)), strict=True))
