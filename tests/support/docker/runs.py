"""What tests do with replicas of the docker driver."""

from __future__ import annotations

import asyncio
import json
import urllib.request
import uuid
from typing import Any

from podbay_session_manager.drivers.containers.driver import DockerDriver
from podbay_session_manager.drivers.contract import LaunchSpec, ObservedReplica
from podbay_session_manager.records import ServiceSpec, Serving
from tests.support.session_manager import until


def launch(service: ServiceSpec, *, session: str = "", **fields: Any) -> LaunchSpec:
    """Return a replica with an id that no other run on this machine has."""
    unique = uuid.uuid4().hex[:12]
    return LaunchSpec(f"r-{unique}", session or f"s-{unique}", service, Serving(), "n1", **fields)


async def seen(driver: DockerDriver, spec: LaunchSpec) -> ObservedReplica | None:
    """Return what a driver tells of a replica."""
    listed = await driver.list()
    return next((s for s in listed if s.replica_id == spec.replica_id), None)


async def ended(driver: DockerDriver, spec: LaunchSpec, seconds: float = 30) -> ObservedReplica:
    """Wait until a replica has ended."""

    async def look() -> ObservedReplica | None:
        found = await seen(driver, spec)
        return found if found is not None and not found.running else None

    return await until(look, seconds)


async def gone(driver: DockerDriver, spec: LaunchSpec) -> None:
    """Stop and remove a replica."""
    await driver.stop(spec.replica_id, 0)
    await ended(driver, spec)
    await driver.remove(spec.replica_id)


async def answer(driver: DockerDriver, spec: LaunchSpec, path: str = "/ready") -> Any:
    """Wait until a replica answers, and return what."""
    found = await seen(driver, spec)
    assert found is not None
    assert found.running, found

    def ask() -> Any:
        url = f"http://{found.host}:{found.port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                return json.load(response)
        except OSError:
            return None

    return await until(lambda: asyncio.to_thread(ask))


async def log(driver: DockerDriver, spec: LaunchSpec) -> str:
    """Return the end of a replica's log."""
    return (await driver.read_log(spec.replica_id, -65536, 65536)).data.decode(errors="replace")
