"""Measure Podbay beside a direct call and Envoy, and write docs/performance.md.

All cases run in turn, several rounds, against the same replica; the table gives medians and the
ratios within this run. Absolute figures say more about the machine than about Podbay.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks import first_piece, inside, pinned, routes, scaling, streams, telemetry
from benchmarks.aims import Findings
from benchmarks.envoy import ENVOY_VERSION, envoy, h2load, missing_tools
from benchmarks.figures import Figure, Sample
from benchmarks.hop import rates
from benchmarks.installation import ECHO_REPLICA, installation, processes, session
from benchmarks.report import page
from podbay import Client

ROOT = Path(__file__).resolve().parent.parent

Case = Callable[[int], Sample]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument(
        "--requests", type=int, default=2000, help="per round and case (default: %(default)s)"
    )
    parser.add_argument(
        "--stream-seconds",
        type=int,
        default=60,
        help="how long 5,000 streamed calls take (default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "performance.md", help="the page to write"
    )
    arguments = parser.parse_args()
    missing = missing_tools()
    if missing:
        print(f"The comparison with Envoy needs a tool: {missing}", file=sys.stderr)
        return 2
    load = os.getloadavg()[0]
    with installation() as up, contextlib.ExitStack() as stack:
        client = stack.enter_context(Client())
        session_id, token, status = session(client, ECHO_REPLICA, "benchmark-echo")
        replica = status.address
        proxy, envoy_process = stack.enter_context(envoy(replica))
        router = client.installation().inference_router_endpoint
        cases = _cases(replica, proxy, router, f"{session_id} {token}")
        figures = _measure(
            cases,
            {"envoy": [envoy_process], "podbay": processes(up, "podbay_inference_router")},
            arguments.rounds,
            arguments.requests,
        )
        hop = rates(replica, 32, 10 * arguments.requests, arguments.rounds)
    found = _find(figures, arguments)
    arguments.output.write_text(
        page(figures, hop, found, _machine(arguments, load)), encoding="utf-8"
    )
    print(f"\nwritten: {arguments.output}")
    return 0


def _find(figures: list[Figure], arguments: argparse.Namespace) -> Findings:
    (pieces,) = (f for f in figures if "pieces" in f.case and f.in_flight > 1)
    return Findings(
        pinned=pinned.measure(arguments.rounds, 10 * arguments.requests),
        pieces=pieces,
        first_piece=first_piece.measure(),
        scaling=scaling.measure(),
        streams=streams.measure(seconds=arguments.stream_seconds),
        routes=routes.measure(),
        inside=inside.parts(),
        telemetry=telemetry.measure(),
    )


def _cases(replica: str, proxy: str, router: str, session: str) -> dict[tuple[str, int], Case]:
    def load(name: str, target: str, in_flight: int) -> Case:
        def run(requests: int) -> Sample:
            result = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "benchmarks.load",
                    name,
                    target,
                    str(in_flight),
                    str(requests),
                ],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                check=True,
            )
            return Sample(**json.loads(result.stdout))

        return run

    cases: dict[tuple[str, int], Case] = {
        ("direct (http.client)", 1): load("direct", replica, 1),
        ("podbay sync infer", 1): load("sync_infer", session, 1),
    }
    for n in (1, 32):
        cases["direct (h2load)", n] = lambda r, n=n: h2load(replica, n, r, http1=True)  # type: ignore[misc] # n is bound per case
        cases["envoy h2→h1 (h2load)", n] = lambda r, n=n: h2load(proxy, n, r, http1=False)  # type: ignore[misc] # as above
        cases["podbay Exchange", n] = load("async_infer", session, n)
        cases["podbay unary Infer", n] = load("unary", f"{router} {session}", n)
        cases["podbay pieces (50 events)", n] = load("async_pieces", session, n)
    return cases


def _measure(
    cases: dict[tuple[str, int], Case],
    proxies: dict[str, list[psutil.Process]],
    rounds: int,
    requests: int,
) -> list[Figure]:
    figures = {key: Figure(*key) for key in cases}
    for number in range(rounds):
        for (name, in_flight), case in cases.items():
            # Each round of each case shall last about as long: seconds, not milliseconds.
            share = requests * (5 if in_flight > 1 else 1) // (10 if "pieces" in name else 1)
            watched = proxies.get(name.split()[0], [])
            before = _cpu(watched)
            sample = case(share)
            used = _cpu(watched) - before
            figures[name, in_flight].samples.append(dataclasses.replace(sample, cpu=used))
            print(
                f"round {number + 1}/{rounds}  {name:<28} {in_flight:>3} in flight  "
                f"{sample.requests / sample.seconds:>9.0f}/s  p50 {sample.p50 * 1e3:.3f} ms",
                flush=True,
            )
    return list(figures.values())


def _cpu(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _machine(arguments: argparse.Namespace, load: float) -> dict[str, str]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "load": f"{load:.1f}",
        "envoy": ENVOY_VERSION,
        "rounds": str(arguments.rounds),
        "requests": str(arguments.requests),
    }


if __name__ == "__main__":
    sys.exit(main())
