"""Measure how soon a container answers, and write docs/performance-containers.md.

The same image is started by the engine alone (docker-py: create, start), and by the docker driver
with all that it adds, in turn within each round. Both are asked until the first byte of the first
answer of the readiness path has come. Beside them, a session of the whole platform is created and
called.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import socket
import tempfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import docker

from benchmarks.figures import percentile, table
from podbay.types import SessionStatus
from podbay_session_manager.drivers.containers.driver import DockerDriver
from podbay_session_manager.drivers.containers.settings import DockerSettings
from podbay_session_manager.drivers.contract import LaunchSpec
from podbay_session_manager.records import ServiceSpec, Serving
from tests.e2e.docker.platform import DockerPlatform, docker_platform
from tests.support.docker import images
from tests.support.docker.engines import Machine, machine
from tests.support.docker.fixtures import Docker, TestImages
from tests.support.docker.image_registry import ImageRegistry
from tests.support.eventually import eventually_sync

ROOT = Path(__file__).resolve().parent.parent

_PAGE = """# Performance of containers

Written by `python -m benchmarks.containers` on {date}: Python {python}, {cores} cores, Docker
{engine}; {rounds} rounds, all in turn within each round. The image is on the node, and its replica
is a small web server in Python. Milliseconds, the median and the 95th percentile. Figures of
another machine differ; what the driver adds is what to compare.

{main}

- **the engine alone**: create and start on the default network, with no limits.
- **the docker driver**: the same with what a replica gets: a look whether it exists, a network of
  the session's own, limits, no capabilities, a read-only root with tmpfs.
- **a second replica of a session**: the network is there.
- **the whole platform**: from the creation of a session to the first answer of `infer`; it is
  started when its status says so, and what comes after that includes the readiness probe and the
  router's acknowledgement.
"""

_PORT = 8000


async def measure(
    where: Machine, reference: str, whole: _Platform, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Return, by case, the seconds until the start was done and until the first byte came."""
    engine = where.engines[0]
    client = engine.client()
    with tempfile.TemporaryDirectory() as folder:
        settings = DockerSettings(uuid.uuid4().hex, Path(folder))
        driver = DockerDriver(engine.node(), settings)
        found: dict[str, list[tuple[float, float]]] = {}
        try:
            for number in range(rounds + 1):
                session = f"s{number}"
                results = {
                    "the engine alone": await asyncio.to_thread(_bare, client, reference),
                    "the docker driver": await _driven(driver, reference, session, "a"),
                    "a second replica of a session": await _driven(driver, reference, session, "b"),
                }
                await _clear(driver)
                results["the whole platform"] = await asyncio.to_thread(whole.run)
                if number:
                    # The first round warms up.
                    for case, result in results.items():
                        found.setdefault(case, []).append(result)
        finally:
            await driver.close()
            client.close()
    return found


class _Platform:
    """A platform and a service on it."""

    def __init__(self, running: DockerPlatform) -> None:
        self._running = running
        self._service = running.service(
            memory="256Mi", serving={"readiness_path": "/ready", "stop_grace": 0}
        )

    def run(self) -> tuple[float, float]:
        """Create a session, and return the seconds until it was started and has answered."""
        running = self._running
        sessions = running.client.inferencesessions
        started: list[float] = []

        def look(status: SessionStatus) -> None:
            if not started and any(r.phase in {"Probing", "Ready"} for r in status.replicas):
                started.append(time.perf_counter() - begun)

        begun = time.perf_counter()
        made = sessions.create(
            {"account": running.account, "inferenceService": self._service.id, "replicas": 1}
        )
        session = made.inferencesession.id
        sessions.wait_ready(session, timeout=60, progress=look)
        with sessions.client(session, made.token, endpoint="echo") as calls:
            calls.infer({})
        answered = time.perf_counter() - begun
        sessions.terminate(session)
        eventually_sync(lambda: running.left() == {}, "nothing is left")
        return started[0], answered


def _bare(client: docker.APIClient, reference: str) -> tuple[float, float]:
    begun = time.perf_counter()
    made = client.create_container(reference, environment={"PORT": str(_PORT)})
    client.start(made["Id"])
    started = time.perf_counter() - begun
    address = client.inspect_container(made["Id"])["NetworkSettings"]["IPAddress"]
    _first_byte(address)
    answered = time.perf_counter() - begun
    client.remove_container(made["Id"], force=True)
    return started, answered


async def _driven(
    driver: DockerDriver, reference: str, session: str, replica: str
) -> tuple[float, float]:
    service = ServiceSpec(kind="container", name="bench", image=reference, memory_bytes=256 << 20)
    spec = LaunchSpec(f"{session}-{replica}", session, service, Serving())
    begun = time.perf_counter()
    await driver.start(spec)
    started = time.perf_counter() - begun
    (seen,) = [s for s in await driver.list() if s.replica_id == spec.replica_id]
    await asyncio.to_thread(_first_byte, seen.host)
    return started, time.perf_counter() - begun


async def _clear(driver: DockerDriver) -> None:
    while listed := await driver.list():
        for seen in listed:
            if seen.running:
                await driver.stop(seen.replica_id, 0)
            else:
                await driver.remove(seen.replica_id)


def _first_byte(host: str) -> None:
    while True:
        try:
            with socket.create_connection((host, _PORT), timeout=5) as connection:
                connection.sendall(b"GET /ready HTTP/1.1\r\nHost: bench\r\n\r\n")
                if connection.recv(1):
                    return
        except OSError:
            time.sleep(0.002)


def _row(case: str, samples: list[tuple[float, float]]) -> list[str]:
    cells = [case]
    for values in zip(*samples, strict=True):
        cells.extend(f"{percentile(list(values), part) * 1000:.0f}" for part in (0.5, 0.95))
    return cells


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/performance-containers.md")
    options = parser.parse_args()
    # A second one, that the rig expects, stands idle.
    with machine(2) as where:
        registry = ImageRegistry(where.slot.folder / "registry")
        client = where.engines[0].client()
        try:
            name = f"{registry.host}/bench/replica"
            images.import_image(client, images.replica_tarball(where.slot.folder), name)
            reference = images.push(client, name)
            engine = client.version()["Version"]
            rig = Docker(where, TestImages(reference, reference, reference), registry)
            with (
                tempfile.TemporaryDirectory() as folder,
                docker_platform(rig, Path(folder), count=1) as running,
            ):
                whole = _Platform(running)
                found = asyncio.run(measure(where, reference, whole, options.rounds))
        finally:
            client.close()
            registry.stop()
    headers = ["started by", "started, p50", "p95", "first byte, p50", "p95"]
    page = _PAGE.format(
        date=datetime.now(UTC).date(),
        python=platform.python_version(),
        cores=os.cpu_count(),
        engine=engine,
        rounds=options.rounds,
        main=table(headers, [_row(case, samples) for case, samples in found.items()]),
    )
    options.output.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
