"""Measure what the services use while nobody calls: memory and CPU, process by process.

RSS counts a page of a shared library in every process that has it; PSS divides it among them, so
that the sum is what the services take from the machine.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.figures import table
from benchmarks.installation import installation

__all__ = ["Idle", "idle_table", "measure_idle"]

_PAGE_FILE = Path(__file__).resolve().parent.parent / "docs" / "performance-idle.md"
_PAGE = """# What idle services use

Written by `make bench` on {date}: Python {python}, an installation of `podbay up` that nobody
calls, over {seconds} s. PSS divides the pages of shared libraries among the processes that have
them, so its sum is what the services take from the machine; RSS counts them in every process.
The aim is 200 MB and 1 % of a core for the three services.

{tables}

Each worker of a router is a process with a Python of its own; what only watches workers imports no
gRPC. `podbay up` is what starts the services again; an installation without it has no such process.
`tests/integration/test_service_imports.py` keeps out of each service what only others need.
"""

_SETTLE_SECONDS = 5.0
_MODULES = {
    "podbay_registry": "registry",
    "podbay_session_manager": "session manager",
    "podbay_inference_router": "inference router",
}


@dataclass(frozen=True, slots=True)
class Idle:
    """What one process used while it idled."""

    name: str
    pss: int
    """Bytes, where pages are divided among those that share them."""
    rss: int
    """Bytes, where shared pages count in full."""
    cpu: float
    """Seconds of CPU for each second of the clock."""

    @property
    def is_service(self) -> bool:
        """Whether it belongs to the three services, and not to `podbay up`."""
        return self.name != "podbay up"


def measure_idle(up: psutil.Process, seconds: float, settle: float = _SETTLE_SECONDS) -> list[Idle]:
    """Watch the processes of an installation that nobody calls.

    Args:
        up: The process of `podbay up`.
        seconds: How long CPU is counted.
        settle: How long it first comes to rest after its start.
    """
    time.sleep(settle)
    watched = [up, *up.children(recursive=True)]
    before = [_cpu(process) for process in watched]
    started = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - started
    found = []
    for process, cpu in zip(watched, before, strict=True):
        used = (_cpu(process) - cpu) / took
        memory = process.memory_full_info()
        found.append(Idle(_name(process), memory.pss, memory.rss, used))
    return found


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _name(process: psutil.Process) -> str:
    line = process.cmdline()
    for module, name in _MODULES.items():
        if module in line:
            return f"{name}, worker" if "--worker" in line else name
    return "podbay up"


def idle_table(found: Sequence[Idle]) -> str:
    """Return the table of the processes, with the sum of the three services."""
    services = [idle for idle in found if idle.is_service]
    together = Idle(
        "the three services",
        sum(idle.pss for idle in services),
        sum(idle.rss for idle in services),
        sum(idle.cpu for idle in services),
    )
    rows = [
        [idle.name, f"{idle.pss / 1e6:.0f}", f"{idle.rss / 1e6:.0f}", f"{100 * idle.cpu:.2f}"]
        for idle in (*found, together)
    ]
    return table(["process", "PSS, MB", "RSS, MB", "CPU, % of a core"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="of the router")
    parser.add_argument("--output", type=Path, default=_PAGE_FILE, help="the page to write")
    arguments = parser.parse_args()
    tables = {}
    for workers in arguments.workers:
        # The first run of a checkout may write the byte code; a process that compiles stays larger.
        with installation(workers) as up:
            measure_idle(up, 0.0, settle=0.0)
        with installation(workers) as up:
            tables[workers] = idle_table(measure_idle(up, arguments.seconds))
        print(f"\n{_heading(workers)}\n\n{tables[workers]}", flush=True)
    arguments.output.write_text(
        _PAGE.format(
            date=datetime.now(UTC).strftime("%Y-%m-%d"),
            python=platform.python_version(),
            seconds=f"{arguments.seconds:g}",
            tables="\n\n".join(f"## {_heading(n)}\n\n{text}" for n, text in tables.items()),
        ),
        encoding="utf-8",
    )
    print(f"\nwritten: {arguments.output}")
    return 0


def _heading(workers: int) -> str:
    return "A router of one process" if workers == 1 else f"A router with {workers} workers"


if __name__ == "__main__":
    sys.exit(main())
