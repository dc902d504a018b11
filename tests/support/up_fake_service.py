"""A service that does nothing but be healthy, for tests of the supervisor.

    python -m tests.support.up_fake_service PORT [MODE]

MODE is "healthy", "exits" (at once, with code 7), "unhealthy" or "stubborn" (SIGTERM is ignored).
"""

from __future__ import annotations

import signal
import sys
import threading
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


def main() -> int:
    port, mode = sys.argv[1], (sys.argv[2:] or ["healthy"])[0]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: None if mode == "stubborn" else stop.set())
    sys.stderr.write(f"fake service in mode {mode}\n")
    if mode == "exits":
        return 7
    server = grpc.server(
        futures.ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)], compression=None
    )
    servicer = health.HealthServicer()
    states = health_pb2.HealthCheckResponse
    servicer.set("", states.NOT_SERVING if mode == "unhealthy" else states.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    stop.wait()
    server.stop(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
