"""Each way to fail has its reason, with evidence and a way out."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from podbay_session_manager.declared_nodes import DeclaredGpu
from podbay_session_manager.drivers.containers.driver import DockerDriver
from podbay_session_manager.drivers.containers.engine import EngineClient
from podbay_session_manager.drivers.contract import StartFailedError
from podbay_session_manager.records import Reason
from tests.e2e.docker.conftest import MakeDriver
from tests.support.docker.fixtures import Docker
from tests.support.docker.free_port import free_port
from tests.support.docker.runs import ended, launch, log
from tests.support.session_manager import until

NOWHERE = "@sha256:" + "0" * 64


async def refused(driver: DockerDriver, docker: Docker, *command: str, **fields: Any) -> Any:
    gpus = fields.pop("gpus", ())
    with pytest.raises(StartFailedError) as failure:
        await driver.start(launch(docker.service(*command, **fields), gpus=gpus))
    assert await driver.list() == []
    assert docker.left() == {}
    return failure.value


async def test_an_image_that_is_not_there(docker: Docker, driver: DockerDriver) -> None:
    image = f"{docker.registry.host}/test/no-such-image{NOWHERE}"
    failure = await refused(driver, docker, image=image)
    assert failure.reason is Reason.IMAGE_NOT_FOUND
    assert "test/no-such-image" in failure.message


async def test_a_digest_that_is_not_there(docker: Docker, driver: DockerDriver) -> None:
    image = f"{docker.registry.host}/test/replica{NOWHERE}"
    failure = await refused(driver, docker, image=image)
    assert failure.reason is Reason.IMAGE_DIGEST_NOT_FOUND
    assert NOWHERE[1:] in failure.message


async def test_a_registry_that_is_down(docker: Docker, driver: DockerDriver) -> None:
    # Which engines have the image already does not matter for a digest that none has.
    docker.registry.stop()
    image = f"{docker.registry.host}/test/replica{NOWHERE}"
    failure = await refused(driver, docker, image=image)
    assert failure.reason is Reason.REGISTRY_UNREACHABLE
    assert "connection refused" in failure.message


async def test_a_registry_that_is_not_there_does_not_matter_for_what_is_there(
    docker: Docker, driver: DockerDriver
) -> None:
    first, second = launch(docker.service()), launch(docker.service())
    await driver.start(first)
    docker.registry.stop()
    await driver.start(second)
    assert len(await driver.list()) == 2


async def test_what_answers_is_no_registry(docker: Docker, driver: DockerDriver) -> None:
    failure = await refused(driver, docker, image=f"127.0.0.1:{free_port()}/a/b{NOWHERE}")
    assert failure.reason is Reason.REGISTRY_UNREACHABLE


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("no-such-command", Reason.COMMAND_NOT_FOUND),
        ("/no/such/command", Reason.COMMAND_NOT_FOUND),
        ("/opt", Reason.COMMAND_NOT_EXECUTABLE),
    ],
)
async def test_a_command_that_cannot_be_run(
    docker: Docker, driver: DockerDriver, command: str, reason: Reason
) -> None:
    failure = await refused(driver, docker, command)
    assert failure.reason is reason
    assert command in failure.message


async def test_a_crash_at_import_leaves_exit_code_and_log(
    docker: Docker, driver: DockerDriver
) -> None:
    spec = launch(docker.service("python3", "/opt/replica.py", "broken"))
    await driver.start(spec)
    found = await ended(driver, spec)
    assert (found.exit_code, found.reason) == (1, Reason.NONE)
    assert "No module named 'no_such_module_here'" in await log(driver, spec)


async def test_out_of_memory_is_told_from_other_kills(docker: Docker, driver: DockerDriver) -> None:
    hog = launch(docker.service("python3", "/opt/replica.py", "hog", memory_bytes=64 << 20))
    await driver.start(hog)
    found = await ended(driver, hog)
    assert (found.exit_code, found.reason) == (137, Reason.OUT_OF_MEMORY)
    assert "64 MiB" in found.message
    other = launch(docker.service())
    await driver.start(other)
    await driver.stop(other.replica_id, 0)
    found = await ended(driver, other)
    assert (found.exit_code, found.reason) == (137, Reason.NONE)


async def test_the_engine_knows_by_its_events_who_ran_out_of_memory(docker: Docker) -> None:
    """Where it leaves `OOMKilled` false, because it learnt of that too late."""
    api, client = docker.engine.client(), EngineClient(docker.engine.url, None, 10)
    told: dict[str, bool] = {}
    try:
        for what in ("hog", "ignore-term"):
            limit = api.create_host_config(mem_limit=64 << 20, network_mode="none")
            command = ["python3", "/opt/replica.py", what]
            made = api.create_container(docker.images.replica, command=command, host_config=limit)
            try:
                begun = time.time()
                api.start(made)
                if what != "hog":
                    api.kill(made)
                assert api.wait(made)["StatusCode"] == 137
                until = time.time() + 0.5
                told[what] = client.ran_out_of_memory(made["Id"], begun - 1, until)
            finally:
                api.remove_container(made, force=True)
    finally:
        api.close()
        client.close()
    assert told == {"hog": True, "ignore-term": False}


async def test_a_full_disk(docker: Docker, make_driver: MakeDriver) -> None:
    small = docker.machine.add(disk_bytes=32 << 20)
    driver = make_driver(engine=small)
    with pytest.raises(StartFailedError) as failure:
        await driver.start(launch(docker.service()))
    assert failure.value.reason is Reason.DISK_FULL
    assert docker.left(small) == {}


async def test_gpus_that_the_engine_cannot_give(docker: Docker, make_driver: MakeDriver) -> None:
    plain = docker.machine.add(gpus=False)
    driver = make_driver(engine=plain)
    with pytest.raises(StartFailedError) as failure:
        await driver.start(launch(docker.service(), gpus=("0",)))
    assert failure.value.reason is Reason.GPU_UNAVAILABLE
    assert "GPUs 0" in failure.value.message
    assert docker.left(plain) == {}


async def test_gpus_that_it_can_give_are_the_replicas_own(
    docker: Docker, make_driver: MakeDriver
) -> None:
    driver = make_driver(gpus=(DeclaredGpu("GPU-aaaa", "nvidia.com/gpu-t4"),))
    spec = launch(docker.service("/bin/sh", "-c", "echo see=$NVIDIA_VISIBLE_DEVICES"), gpus=("7",))
    await driver.start(spec)
    await ended(driver, spec)
    assert "see=7\n" in await log(driver, spec)


async def test_a_pull_tells_how_far_it_is(docker: Docker, make_driver: MakeDriver) -> None:
    engine = docker.machine.add()
    driver = make_driver(engine=engine)
    spec = launch(docker.service())

    start = asyncio.ensure_future(driver.start(spec))
    told = await until(lambda: driver.progress(spec.replica_id))
    assert docker.images.replica in told.doing
    await until(lambda: start.done() or ((p := driver.progress(spec.replica_id)) and p.total_bytes))
    await start
    assert driver.progress(spec.replica_id) is None


async def test_a_start_that_pulls_its_image_is_given_up_at_once(
    docker: Docker, driver: DockerDriver
) -> None:
    asked, over = asyncio.Event(), asyncio.Event()

    async def say_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await over.wait()
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    image = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}/test/replica{NOWHERE}"
    spec = launch(docker.service(image=image))
    start = asyncio.ensure_future(driver.start(spec))
    async with asyncio.timeout(30):
        await asked.wait()
        assert list(driver.starting) == [spec.replica_id]
        await driver.stop(spec.replica_id, 10)
        with pytest.raises(StartFailedError) as failure:
            await start
    assert failure.value.reason is Reason.REPLICA_STOPPED
    assert not driver.starting
    assert await driver.list() == []
    over.set()
    silent.close()
    await silent.wait_closed()
    assert docker.left() == {}
