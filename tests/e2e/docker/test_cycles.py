"""Starts and ends in great number, while engines fail: nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable

import pytest

from podbay_session_manager.drivers.containers.driver import DockerDriver
from podbay_session_manager.drivers.contract import (
    DriverUnreachableError,
    LaunchSpec,
    ReplicaStillRunningError,
)
from podbay_session_manager.records import ScratchMount
from tests.e2e.docker.conftest import MakeDriver
from tests.support.docker.faulty_socket import FaultySocket
from tests.support.docker.fixtures import Docker
from tests.support.docker.runs import launch
from tests.support.eventually import eventually

CYCLES = int(os.environ.get("PODBAY_DOCKER_CYCLES", "20"))
AT_ONCE = 8


async def cycle(driver: DockerDriver, spec: LaunchSpec, luck: random.Random) -> None:
    """Bring a replica up and down as the session manager does: telling again what failed."""
    give_up = luck.random() < 0.2
    while True:
        start = asyncio.ensure_future(driver.start(spec))
        if give_up:
            # Whoever waits for the start goes away; the driver does not.
            await asyncio.sleep(luck.random() * 0.3)
            start.cancel()
            break
        try:
            await start
            break
        except DriverUnreachableError:
            await asyncio.sleep(0.05)
    grace = luck.choice([0.0, 0.0, 0.3])
    while True:
        # What is on its way when the engine is asked may not be in its answer.
        starting = busy(driver, spec)
        try:
            found = [s for s in await driver.list() if s.replica_id == spec.replica_id]
            if not found and not starting:
                return
            if found and found[0].running:
                await driver.stop(spec.replica_id, grace)
            elif found:
                await driver.remove(spec.replica_id)
        except (DriverUnreachableError, ReplicaStillRunningError):
            pass
        await asyncio.sleep(0.05)


def busy(driver: DockerDriver, spec: LaunchSpec) -> bool:
    return spec.replica_id in driver._starts


@pytest.mark.timeout(120 + 10 * CYCLES)
@pytest.mark.parametrize("kills", [False, True])
async def test_cycles_with_faults_leave_nothing(
    docker: Docker, make_driver: MakeDriver, faulty: FaultySocket, kills: bool
) -> None:
    """Connections break and the engine freezes; in the second case it is killed, too.

    Sessions then outlive their replicas, so that no network is made while the engine is killed: see
    `Engine.restart`.
    """
    luck = random.Random(7)
    driver = make_driver(through=faulty.url)
    stubborn = ("/bin/sh", "-c", "trap '' TERM; while true; do sleep 0.05; done")
    kinds = [
        docker.service(),
        docker.service("/bin/sh", "-c", "exit 3"),
        docker.service(*stubborn),
        docker.service(mounts=(ScratchMount("s", "/scratch", 1 << 20),)),
    ]
    anchors = [launch(docker.service()) for _ in range(3)] if kills else []
    for anchor in anchors:
        await driver.start(anchor)
    slots = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with slots:
            session = luck.choice(anchors).session_id if anchors else ""
            await cycle(driver, launch(luck.choice(kinds), session=session), luck)

    async def break_things() -> None:
        faults: list[Callable[[], None]] = [faulty.cut, docker.engine.pause, docker.engine.restart]
        while True:
            await asyncio.sleep(1.5 + luck.random())
            await asyncio.to_thread(luck.choices(faults, [6, 2, 2 if kills else 0])[0])
            await asyncio.sleep(luck.random())
            faulty.mend()
            docker.engine.resume()
            faulty.cut_answers = luck.choice([0, 0, 1])

    breaking = asyncio.ensure_future(break_things())
    cycles = [asyncio.ensure_future(one()) for _ in range(CYCLES)]
    try:
        both = asyncio.gather(*cycles)
        await asyncio.wait([breaking, both], return_when=asyncio.FIRST_COMPLETED)
        assert not breaking.done(), breaking.exception()
        await both
    finally:
        for task in (breaking, *cycles):
            task.cancel()
        await asyncio.wait([breaking, *cycles])
        faulty.mend()
        faulty.cut_answers = 0
        docker.engine.ensure_up()

    async def swept() -> bool:
        # An engine that was frozen does late what it was asked before: that belongs to nobody, and
        # is removed, as the session manager does.
        try:
            for found in await driver.list():
                await driver.stop(found.replica_id, 0)
                if not found.running:
                    await driver.remove(found.replica_id)
        except (DriverUnreachableError, ReplicaStillRunningError):
            return False
        return docker.left() == {}

    await eventually(swept, "nothing is left", timeout=60)
