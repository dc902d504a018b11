"""Containers that mean harm: the node's others, and the session manager, do not notice."""

from __future__ import annotations

import asyncio

import pytest

from podbay_session_manager.records import ScratchMount
from tests.e2e.docker.conftest import MakeDriver
from tests.support.docker.fixtures import Docker
from tests.support.docker.runs import answer, ended, launch, seen
from tests.support.eventually import eventually


@pytest.mark.parametrize("what", ["bomb", "hog", "fill", "flood", "ignore-term"])
async def test_a_hostile_container_hurts_nobody_and_goes_in_time(
    docker: Docker, make_driver: MakeDriver, what: str
) -> None:
    driver = make_driver(pids_limit=64, tmp_bytes=16 << 20, shm_bytes=16 << 20, log_bytes=1 << 20)
    good = launch(docker.service())
    await driver.start(good)
    await answer(driver, good)
    hostile = launch(
        docker.service(
            "python3",
            "/opt/replica.py",
            what,
            cpus=0.5,
            memory_bytes=128 << 20,
            mounts=(ScratchMount("s", "/scratch", 8 << 20),),
        )
    )
    await driver.start(hostile)
    for _ in range(20):
        # The neighbour answers, and so does the engine, while the other one does its worst.
        await answer(driver, good)
        await asyncio.sleep(0.05)
    await driver.stop(hostile.replica_id, 0.5)
    await ended(driver, hostile)
    await driver.remove(hostile.replica_id)
    chunk = await driver.read_log(hostile.replica_id, 0, 64 << 20)
    assert len(chunk.data) <= 2 << 20
    await answer(driver, good)
    found = await seen(driver, good)
    assert found is not None
    assert found.running
    assert len(docker.left()["containers"]) == 1
    assert len(docker.left()["networks"]) == 1
    assert "volumes" not in docker.left()


async def test_what_writes_everywhere_fills_only_what_is_its_own(
    docker: Docker, make_driver: MakeDriver
) -> None:
    driver = make_driver(tmp_bytes=4 << 20, shm_bytes=4 << 20)
    spec = launch(
        docker.service(
            "python3",
            "/opt/replica.py",
            "fill",
            mounts=(ScratchMount("s", "/scratch", 4 << 20),),
        )
    )
    await driver.start(spec)
    await answer(driver, spec)
    text = (await driver.read_log(spec.replica_id, 0, 1 << 20)).data.decode()
    written = {
        line.split()[3]: int(line.split()[1])
        for line in text.splitlines()
        if line.startswith("wrote") and not line.startswith("wrote 0 ")
    }
    assert set(written) == {"/tmp", "/var/tmp", "/run", "/dev/shm", "/scratch"}
    assert written["/scratch"] <= 4 << 20
    assert sum(written.values()) < 64 << 20


async def test_a_fork_bomb_stays_within_its_number(docker: Docker, make_driver: MakeDriver) -> None:
    driver = make_driver(pids_limit=32)
    spec = launch(docker.service("python3", "/opt/replica.py", "bomb", cpus=0.5))
    await driver.start(spec)
    client = docker.engine.client()
    name = docker.left()["containers"][0].lstrip("/")

    def full() -> bool:
        return len(client.top(name)["Processes"]) >= 32

    await eventually(lambda: asyncio.to_thread(full), "it has as many processes as it may")
    assert len(client.top(name)["Processes"]) == 32
    client.close()
    await driver.stop(spec.replica_id, 0.2)
    await ended(driver, spec)


async def test_a_fork_bomb_is_given_the_cpu_time_that_it_needs_to_end(
    docker: Docker, make_driver: MakeDriver
) -> None:
    driver = make_driver(pids_limit=128)
    spec = launch(docker.service("python3", "/opt/replica.py", "bomb", cpus=0.05))
    await driver.start(spec)
    client = docker.engine.client()
    name = docker.left()["containers"][0].lstrip("/")

    def full() -> bool:
        return len(client.top(name)["Processes"]) >= 128

    await eventually(lambda: asyncio.to_thread(full), "it has as many processes as it may")
    assert client.inspect_container(name)["HostConfig"]["CpuQuota"] == 5_000
    await driver.stop(spec.replica_id, 0.2)
    # Six times as long otherwise, and minutes where its processes also fight for memory.
    await ended(driver, spec)
    assert client.inspect_container(name)["HostConfig"]["CpuQuota"] == -1
    client.close()
    await driver.remove(spec.replica_id)
