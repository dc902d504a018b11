"""Measure Podbay beside MLServer, BentoML and Ray Serve, and write docs/performance-peers.md."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.environments import EnvironmentUnavailableError, pins_of
from benchmarks.figures import Figure
from benchmarks.peers.loopback import enter
from benchmarks.peers.report import page
from benchmarks.peers.systems import PEERS, PODBAY, System
from benchmarks.peers.texts import SHORT, TEN_KB

_ROOT = Path(__file__).resolve().parents[2]
_TEXTS = {"short": SHORT, "10 KB": TEN_KB}
_IN_FLIGHT = (1, 8, 32, 128)
_CORES = 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="per round and case (default: %(default)s)"
    )
    parser.add_argument("--only", nargs="*", metavar="NAME", help="the systems (default: all)")
    parser.add_argument(
        "--output",
        type=Path,
        default=_ROOT / "docs" / "performance-peers.md",
        help="the page to write; it needs all systems",
    )
    arguments = parser.parse_args()
    wanted = [peer for peer in PEERS if arguments.only is None or peer.name in arguments.only]
    try:
        for peer in wanted:
            peer.python()
    except EnvironmentUnavailableError as error:
        print(f"The comparison needs the peers, which PyPI has: {error}", file=sys.stderr)
        return 2
    if not enter("benchmarks.peers", sys.argv[1:]):
        print("No network namespace can be made here: Ray will listen on all addresses.")
    systems: list[System] = [*PODBAY, *PEERS]
    chosen = [s for s in systems if arguments.only is None or s.name in arguments.only]
    cores = sorted(os.sched_getaffinity(0))[:_CORES]
    os.sched_setaffinity(0, cores)
    load = os.getloadavg()[0]
    figures = _measure(chosen, arguments.rounds, arguments.seconds)
    if len(chosen) == len(systems):
        facts = _facts(arguments, len(cores), load)
        arguments.output.write_text(page(figures, facts), encoding="utf-8")
        print(f"\nwritten: {arguments.output}")
    return 0


def _measure(systems: list[System], rounds: int, seconds: float) -> list[Figure]:
    figures: dict[tuple[str, int], Figure] = {}
    for number in range(rounds):
        for system in systems:
            with system.run() as running:
                for text, characters in _TEXTS.items():
                    for in_flight in _IN_FLIGHT:
                        sample = running.measure(characters, in_flight, seconds)
                        key = f"{system.name} | {text}", in_flight
                        figures.setdefault(key, Figure(*key)).samples.append(sample)
                        print(
                            f"round {number + 1}/{rounds}  {key[0]:<30} {in_flight:>3} in flight  "
                            f"{sample.requests / sample.seconds:>9.0f}/s  "
                            f"p50 {sample.p50 * 1e3:.3f} ms",
                            flush=True,
                        )
    return list(figures.values())


def _facts(arguments: argparse.Namespace, cores: int, load: float) -> dict[str, str]:
    pins = [pins_of(f"peers/{peer.key}.txt")[0] for peer in PEERS]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "cores": str(cores),
        "load": f"{load:.1f}",
        "rounds": str(arguments.rounds),
        "seconds": f"{arguments.seconds:g}",
        "short": str(SHORT),
        "pins": ", ".join(pins),
    }


if __name__ == "__main__":
    sys.exit(main())
