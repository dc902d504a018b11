"""What it costs to count calls for Prometheus and to trace them: the router's own parts of a call.

`python -m benchmarks.telemetry` prints microseconds a call, without, with metrics, and with both.
The three are measured in turn in one run. Spans are made by OpenTelemetry's SDK and not exported:
what an exporter costs is its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from benchmarks.inside import parts
from podbay_inference_router.meters import Meters
from podbay_kit.tracing import Spans

__all__ = ["Telemetry", "measure"]


class Telemetry(NamedTuple):
    """Median seconds a call of the router's own parts."""

    plain: float
    metrics: float
    both: float


def measure(rounds: int = 7, messages: int = 400) -> Telemetry:
    """Measure the three in turn.

    Args:
        rounds: How often each.
        messages: How many messages of 32 calls each time.
    """
    tracer = TracerProvider().get_tracer("benchmarks")
    spans = Spans(tracer, SpanKind, TraceContextTextMapPropagator())

    def run(*, counted: bool, traced: bool) -> float:
        found = parts(
            rounds=messages,
            meters=Meters() if counted else None,
            spans=spans if traced else None,
        )
        return sum(found.values())

    cases: list[Callable[[], float]] = [
        lambda: run(counted=False, traced=False),
        lambda: run(counted=True, traced=False),
        lambda: run(counted=True, traced=True),
    ]
    found = [[case() for case in cases] for _ in range(rounds)]
    return Telemetry(*(statistics.median(column) for column in zip(*found, strict=True)))


def main() -> None:
    found = measure()
    for name, seconds in found._asdict().items():
        print(f"{name:<8} {seconds * 1e6:6.2f} µs a call  {seconds / found.plain:.2f}×")


if __name__ == "__main__":
    main()
