"""What a run measured, and how figures become a table."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

__all__ = ["Figure", "Sample", "table"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one case."""

    requests: int
    seconds: float
    p50: float
    """Seconds."""
    p99: float
    """Seconds."""
    items: int = 0
    """Pieces, where the answers come in pieces."""
    cpu: float = 0.0
    """CPU seconds of what stands between client and replica."""
    load_cpu: float = 0.0
    """CPU seconds of the load itself, where it counts them."""
    memory: float = 0.0
    """Bytes of memory of the system, where they were looked at."""


@dataclass(slots=True)
class Figure:
    """All rounds of one case."""

    case: str
    in_flight: int
    samples: list[Sample] = field(default_factory=list)

    def rate(self) -> float:
        """Return the median of requests per second."""
        return statistics.median(s.requests / s.seconds for s in self.samples)

    def items_rate(self) -> float:
        """Return the median of pieces per second."""
        return statistics.median(s.items / s.seconds for s in self.samples)

    def p50(self) -> float:
        """Return the median over the rounds of the median latency, in seconds."""
        return statistics.median(s.p50 for s in self.samples)

    def p99(self) -> float:
        """Return the median over the rounds of the 99th percentile, in seconds."""
        return statistics.median(s.p99 for s in self.samples)

    def cpu_per_1000(self) -> float:
        """Return the median of CPU seconds per 1,000 requests of what stands in between."""
        return statistics.median(1000 * s.cpu / s.requests for s in self.samples)

    def load_cpu_per_1000(self) -> float:
        """Return the median of CPU seconds per 1,000 requests of the load."""
        return statistics.median(1000 * s.load_cpu / s.requests for s in self.samples)

    def memory(self) -> float:
        """Return the most bytes of memory that were seen."""
        return max(s.memory for s in self.samples)


def percentile(latencies: list[float], fraction: float) -> float:
    """Return a percentile of latencies, in their unit."""
    ordered = sorted(latencies)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def table(headers: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are figures."""
    lines = [
        "| " + " | ".join(headers) + " |",
        "|---|" + "---:|" * (len(headers) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines)
