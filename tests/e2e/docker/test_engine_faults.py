"""Engines that die, freeze or cannot be reached: unknown is not gone, and nothing hangs."""

from __future__ import annotations

import asyncio
import os

import pytest

from podbay_session_manager.drivers.containers.driver import DockerDriver
from podbay_session_manager.drivers.contract import DriverUnreachableError
from tests.e2e.docker.conftest import MakeDriver
from tests.support.docker.faulty_socket import FaultySocket
from tests.support.docker.fixtures import Docker
from tests.support.docker.runs import answer, ended, gone, launch, log, seen
from tests.support.eventually import eventually


async def reaches(driver: DockerDriver) -> bool:
    try:
        await driver.list()
    except DriverUnreachableError:
        return False
    return True


async def test_containers_outlive_a_killed_engine(docker: Docker, driver: DockerDriver) -> None:
    spec = launch(docker.service())
    await driver.start(spec)
    before = await seen(driver, spec)
    assert before is not None
    await answer(driver, spec)
    docker.engine.kill()
    with pytest.raises(DriverUnreachableError) as failure:
        await driver.list()
    assert docker.engine.url in str(failure.value)
    for call in (
        driver.start(spec),
        driver.stop(spec.replica_id, 1),
        driver.remove(spec.replica_id),
        driver.nodes(),
        driver.drop_logs(frozenset()),
    ):
        with pytest.raises(DriverUnreachableError):
            await call
    driver.changed.clear()
    docker.engine.start()
    # It comes back by itself, and says so.
    await asyncio.wait_for(driver.changed.wait(), 20)
    await eventually(lambda: reaches(driver), "the engine is reached again")
    assert await seen(driver, spec) == before
    await answer(driver, spec)
    await gone(driver, spec)
    assert docker.left() == {}


async def test_an_end_while_the_engine_was_down_is_seen_later(
    docker: Docker, driver: DockerDriver
) -> None:
    # It ends only when it is let, so that the engine is down by then.
    script = "trap 'exit 7' TERM; echo up; while true; do sleep 0.05; done"
    spec = launch(docker.service("/bin/sh", "-c", script))
    await driver.start(spec)
    await eventually(lambda: _logged(driver, spec.replica_id, b"up"), "it runs")
    found = await seen(driver, spec)
    assert found is not None
    assert found.pid is not None
    docker.engine.kill()
    os.kill(found.pid, 15)
    docker.engine.start()
    await eventually(lambda: reaches(driver), "the engine is reached again")
    assert (await ended(driver, spec)).exit_code == 7


async def _logged(driver: DockerDriver, replica_id: str, text: bytes) -> bool:
    return text in (await driver.read_log(replica_id, 0, 1000)).data


async def test_a_frozen_engine_is_noticed_in_time_and_holds_nothing_up(
    docker: Docker, make_driver: MakeDriver
) -> None:
    driver = make_driver(call_seconds=1.0)
    spec = launch(docker.service())
    await driver.start(spec)
    docker.engine.pause()
    try:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        # More calls than there are threads.
        results = await asyncio.gather(*(reaches(driver) for _ in range(40)))
        assert not any(results)
        assert loop.time() - begun < 10
        begun = loop.time()
        assert not await reaches(driver)
        with pytest.raises(DriverUnreachableError):
            await driver.start(launch(docker.service()))
        # What is known to be frozen is not waited for.
        assert loop.time() - begun < 0.5
        other = make_driver(call_seconds=1.0)
        assert not await reaches(other)
        begun = loop.time()
        await other.close()
        assert loop.time() - begun < 1
    finally:
        docker.engine.resume()
    await eventually(lambda: reaches(driver), "the engine is reached again")
    found = await seen(driver, spec)
    assert found is not None
    assert found.running
    await gone(driver, spec)


async def test_the_log_is_read_while_the_engine_is_away(
    docker: Docker, driver: DockerDriver
) -> None:
    spec = launch(docker.service())
    await driver.start(spec)
    await answer(driver, spec)
    assert "serving on 8000" in await log(driver, spec)
    docker.engine.kill()
    assert not await reaches(driver)
    assert "serving on 8000" in await log(driver, spec)
    with pytest.raises(DriverUnreachableError):
        await driver.read_log("not-known", 0, 10)


@pytest.fixture
def through(make_driver: MakeDriver, faulty: FaultySocket) -> DockerDriver:
    return make_driver(through=faulty.url)


async def test_a_cut_connection_is_unknown_and_mends(
    docker: Docker, through: DockerDriver, faulty: FaultySocket
) -> None:
    spec = launch(docker.service())
    await through.start(spec)
    faulty.cut()
    assert not await reaches(through)
    faulty.mend()
    await eventually(lambda: reaches(through), "the engine is reached again")
    found = await seen(through, spec)
    assert found is not None
    assert found.running


@pytest.mark.parametrize("after", range(1, 7))
async def test_a_start_that_was_cut_off_anywhere_is_shown_or_never_was(
    docker: Docker, through: DockerDriver, faulty: FaultySocket, after: int
) -> None:
    """The connection is lost after so many answers; what came of the start is listed."""
    first = launch(docker.service())
    await through.start(first)
    await through.list()
    spec = launch(docker.service())
    start = asyncio.ensure_future(through.start(spec))
    for _ in range(after):
        await asyncio.sleep(0)
    faulty.cut_answers = after
    failure = None
    try:
        await start
    except DriverUnreachableError as error:
        failure = error
    faulty.cut_answers = 0
    await eventually(lambda: reaches(through), "the engine is reached again")
    found = await seen(through, spec)
    if failure is None:
        assert found is not None
        assert found.running
    # Told again, as the session manager does, it comes to one replica that runs or has ended.
    await through.start(spec)
    found = await seen(through, spec)
    assert found is not None
    await gone(through, spec)
    await gone(through, first)
    await eventually(lambda: _nothing(docker, through), "nothing is left")


async def _nothing(docker: Docker, driver: DockerDriver) -> bool:
    await driver.list()
    return docker.left() == {}


async def test_a_driver_that_stopped_in_the_middle_leaves_a_trace(
    docker: Docker, make_driver: MakeDriver
) -> None:
    """A container that was created and not started is listed, with why, and can be removed."""
    driver = make_driver()
    spec = launch(docker.service())
    await driver.start(spec)
    client = docker.engine.client()
    name = docker.left()["containers"][0].lstrip("/")
    config = client.inspect_container(name)
    client.remove_container(name, force=True)
    client.create_container_from_config(
        {
            "Image": docker.images.replica,
            "Labels": config["Config"]["Labels"],
            "HostConfig": {"NetworkMode": config["HostConfig"]["NetworkMode"]},
        },
        name,
    )
    client.close()
    later = make_driver()
    found = await seen(later, spec)
    assert found is not None
    assert not found.running
    assert found.exit_code is None
    assert found.reason == "START_FAILED"
    await later.remove(spec.replica_id)
    assert docker.left() == {}
