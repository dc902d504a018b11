"""The router alone on one core, beside Envoy alone on the same core; what drives them on another.

`python -m benchmarks.pinned` prints the figures. What counts is the proxy's CPU time a request: the
other core is shared by the load and the replica, and must not be the limit.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks import load_exchange
from benchmarks.cores import cpu_seconds, pin
from benchmarks.envoy import envoy, h2load
from benchmarks.figures import Sample
from benchmarks.installation import ECHO_REPLICA, installation, processes, session
from benchmarks.load import BODY
from podbay import Client
from podbay.v1 import inference_router_service_pb2 as pb

__all__ = ["CASES", "Pinned", "measure"]

PROXY_CORE, OTHER_CORE = 0, 1
CASES = (
    "Envoy h2→h1, 32 in flight",
    "Envoy h2→h1, 128 in flight",
    "Exchange, 32 in flight",
    "Exchange, 128 in flight",
    "unary Infer, 32 in flight",
    "grpc.aio alone, unary, 32 in flight",
)
_ROOT = Path(__file__).resolve().parent.parent


class Pinned(NamedTuple):
    """Medians over the rounds of one case.

    Attributes:
        rate: Requests per second.
        cpu: CPU seconds of the proxy a request.
        batch: Results a message, where messages carry several.
    """

    rate: float
    cpu: float
    batch: float


Case = tuple[list[psutil.Process], Callable[[int], Sample], int]


@contextlib.contextmanager
def _bare() -> Iterator[tuple[str, psutil.Process]]:
    command = [sys.executable, "-m", "benchmarks.bare_grpc"]
    server = psutil.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield f"127.0.0.1:{server.stdout.readline().strip()}", server
    finally:
        server.kill()
        server.wait()


def _exchange(target: str, in_flight: int) -> Callable[[int], Sample]:
    def run(requests: int) -> Sample:
        command = [
            "taskset",
            "-c",
            str(OTHER_CORE),
            sys.executable,
            "-m",
            "benchmarks.load_exchange",
        ]
        result = subprocess.run(
            [*command, target, str(in_flight), str(requests)],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            check=True,
        )
        return Sample(**json.loads(result.stdout))

    return run


def _unary(address: str, session_id: str, token: str) -> Callable[[int], Sample]:
    request = pb.InferRequest(
        session_id=session_id, endpoint="echo", json=json.dumps(BODY).encode()
    )
    message = request.SerializeToString()
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    headers = ("content-type: application/grpc", "te: trailers", f"authorization: Bearer {token}")
    path = "/podbay.v1.InferenceRouterService/Infer"
    return lambda requests: h2load(
        address, 32, requests, path=path, body=framed, headers=headers, core=OTHER_CORE
    )


def measure(rounds: int, requests: int) -> dict[str, Pinned]:
    """Run all cases in turn, several rounds, and return the medians.

    Args:
        rounds: How many.
        requests: Of each case and round; a tenth of it of unary calls.
    """
    with (
        installation() as up,
        Client() as client,
        contextlib.ExitStack() as stack,
    ):
        session_id, token, replica = session(client, ECHO_REPLICA, "echo")
        router = client.installation().inference_router_endpoint
        workers = processes(up, "podbay_inference_router")
        proxy, envoy_process = stack.enter_context(envoy(replica.address))
        bare, bare_process = stack.enter_context(_bare())
        pin([*workers, envoy_process, bare_process], PROXY_CORE)
        pin([psutil.Process(replica.process_id)], OTHER_CORE)
        target = f"{router} {session_id} {token}"
        cases: list[Case] = [
            ([envoy_process], lambda n: h2load(proxy, 32, n, core=OTHER_CORE), requests),
            ([envoy_process], lambda n: h2load(proxy, 128, n, core=OTHER_CORE), requests),
            (workers, _exchange(target, 32), requests),
            (workers, _exchange(target, 128), requests),
            (workers, _unary(router, session_id, token), requests // 10),
            ([bare_process], _unary(bare, session_id, token), requests // 10),
        ]
        found: dict[str, list[Pinned]] = {name: [] for name in CASES}
        for _ in range(rounds):
            for name, case in zip(CASES, cases, strict=True):
                found[name].append(_once(name, *case))
    return {
        name: Pinned(*(statistics.median(column) for column in zip(*samples, strict=True)))
        for name, samples in found.items()
    }


def _once(
    name: str, proxy: list[psutil.Process], run: Callable[[int], Sample], requests: int
) -> Pinned:
    before = cpu_seconds(proxy)
    sample = run(requests)
    used = cpu_seconds(proxy) - before
    warm_up = load_exchange.WARM_UP if sample.items else 0
    batch = sample.requests / sample.items if sample.items else 1.0
    found = Pinned(sample.requests / sample.seconds, used / (sample.requests + warm_up), batch)
    print(
        f"{name:<38} {found.rate:>9,.0f}/s  {found.cpu * 1e6:7.1f} µs CPU  batch {batch:.1f}",
        flush=True,
    )
    return found


def main() -> None:
    found = measure(rounds=5, requests=20_000)
    print()
    for name, case in found.items():
        print(
            f"{name:<38} {case.rate:>9,.0f}/s  {case.cpu * 1e6:7.1f} µs CPU  batch {case.batch:.1f}"
        )


if __name__ == "__main__":
    main()
