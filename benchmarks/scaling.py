"""Two router workers beside one: what a call costs where several share the port.

`python -m benchmarks.scaling` prints the figures. On two cores that the load and the replica need,
too, requests per second say nothing of that. What can be seen is the CPU time a call: as long as
it is the same, twice the workers on twice the cores take twice the calls. The workers share one
core, and the load and the replica the other, so that the router is what limits: a worker that waits
for its load puts fewer results into a message, and that would be measured instead.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.cores import cpu_seconds, pin
from benchmarks.installation import ECHO_REPLICA, installation, processes, session
from benchmarks.load_exchange import WARM_UP
from benchmarks.pinned import OTHER_CORE, PROXY_CORE
from podbay import Client

__all__ = ["Scaling", "measure"]

_STREAMS = 8
# So many that no worker ever waits for calls.
_IN_FLIGHT = 64
_ROOT = Path(__file__).resolve().parent.parent


class Scaling(NamedTuple):
    """Medians over the rounds.

    Attributes:
        one: CPU seconds a call of one worker.
        two: CPU seconds a call of two workers, together.
        linear: Which part of twice the calls two workers on a core each would take.
        least: Which part of the CPU time the less busy one of the two had; 0.5 is even.
    """

    one: float
    two: float
    linear: float
    least: float


def _workers(up: psutil.Process, count: int) -> list[psutil.Process]:
    """Return the workers, without the process that watches over several of them."""
    found = processes(up, "podbay_inference_router")
    return [process for process in found if count == 1 or "--worker" in process.cmdline()]


def measure(rounds: int = 5, requests: int = 6000) -> Scaling:
    """Load one worker and two workers in turn.

    Args:
        rounds: How many.
        requests: Of each stream and round.
    """
    with contextlib.ExitStack() as stack:
        sides = []
        for count in (1, 2):
            up = stack.enter_context(installation(count))
            client = stack.enter_context(Client())
            session_id, token, replica = session(client, ECHO_REPLICA, "echo")
            target = f"{client.installation().inference_router_endpoint} {session_id} {token}"
            workers = _workers(up, count)
            pin(workers, PROXY_CORE)
            pin([psutil.Process(replica.process_id)], OTHER_CORE)
            sides.append((target, workers))
        spent: list[list[float]] = [[], []]
        least = []
        for _ in range(rounds):
            for (target, workers), into in zip(sides, spent, strict=True):
                before = [cpu_seconds([worker]) for worker in workers]
                _load(target, requests)
                used = [
                    cpu_seconds([worker]) - start
                    for worker, start in zip(workers, before, strict=True)
                ]
                into.append(sum(used) / (_STREAMS * (requests + WARM_UP)))
            least.append(min(used) / sum(used))
    ratios = [one / two for one, two in zip(*spent, strict=True)]
    one, two = (statistics.median(side) for side in spent)
    return Scaling(one, two, statistics.median(ratios), statistics.median(least))


def _load(target: str, requests: int) -> None:
    pinned = ["taskset", "-c", str(OTHER_CORE)]
    command = [*pinned, sys.executable, "-m", "benchmarks.load_exchange", target]
    result = subprocess.run(
        [*command, str(_IN_FLIGHT), str(requests), str(_STREAMS)],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    json.loads(result.stdout)


if __name__ == "__main__":
    found = measure()
    print(
        f"one worker {found.one * 1e6:.1f} µs CPU a call, two {found.two * 1e6:.1f} µs: "
        f"{found.linear:.2f} of linear; the less busy one had {found.least:.0%} of the work"
    )
