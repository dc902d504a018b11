"""What a container may do, seen from within."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from podbay_session_manager.drivers.containers.driver import DockerDriver
from tests.e2e.docker.conftest import MakeDriver
from tests.support.docker.fixtures import Docker
from tests.support.docker.outside import Outside
from tests.support.docker.runs import answer, launch


async def facts(driver: DockerDriver, docker: Docker, **fields: Any) -> dict[str, Any]:
    spec = launch(docker.service(**fields))
    await driver.start(spec)
    found: dict[str, Any] = await answer(driver, spec, "/facts")
    return found


async def test_a_container_may_do_little(docker: Docker, driver: DockerDriver) -> None:
    found = await facts(driver, docker, env=(("MINE", "yes"),))
    assert (found["uid"], found["gid"]) == (65532, 65532)
    assert int(found["capabilities"], 16) == 0
    assert int(found["bounding"], 16) == 0
    assert found["no_new_privileges"] == "1"
    assert set(found["writable"]) == {"/tmp", "/var/tmp", "/run", "/dev/shm"}
    assert found["env"]["MINE"] == "yes"
    assert found["env"]["HOME"] == "/tmp"
    assert found["env"]["PORT"] == "8000"


async def test_its_bounds_are_those_of_the_service(docker: Docker, driver: DockerDriver) -> None:
    spec = launch(docker.service(memory_bytes=128 << 20, cpus=0.5))
    await driver.start(spec)
    client = docker.engine.client()
    details = client.inspect_container(docker.left()["containers"][0].lstrip("/"))
    network = client.inspect_network(docker.left()["networks"][0])
    client.close()
    host = details["HostConfig"]
    assert (host["Memory"], host["MemorySwap"]) == (128 << 20, 128 << 20)
    assert (host["CpuQuota"], host["CpuPeriod"]) == (50_000, 100_000)
    assert host["PidsLimit"] == 2048
    assert host["RestartPolicy"]["Name"] == "no"
    assert host["CapDrop"] == ["ALL"]
    assert not host["Privileged"]
    assert host["PortBindings"] in (None, {})
    assert host["LogConfig"]["Type"] == "local"
    assert network["Internal"]
    labels = details["Config"]["Labels"]
    assert labels["dev.podbay.installation"] == docker.installation
    assert labels["dev.podbay.session"] == spec.session_id
    assert labels["dev.podbay.replica"] == spec.replica_id
    assert labels["dev.podbay.generation"] == "1"


async def test_an_image_that_names_a_user_keeps_it(docker: Docker, driver: DockerDriver) -> None:
    found = await facts(driver, docker, image=docker.images.user)
    assert (found["uid"], found["gid"]) == (1234, 1234)
    # What it declares as a volume would be disk without bounds.
    options = {path: options.split(",") for _, path, _, options in found["mounts"]}
    assert "ro" in options["/home"]


async def test_root_is_root_only_where_the_operator_says_so(
    docker: Docker, make_driver: MakeDriver
) -> None:
    found = await facts(make_driver(allow_root=True), docker)
    assert found["uid"] == 0
    # Also then without any of root's powers.
    assert int(found["capabilities"], 16) == 0
    # All of these are in its own memory.
    assert set(found["writable"]) == {"/tmp", "/var/tmp", "/run", "/dev/shm", "/dev"}


async def test_there_is_no_way_out_unless_asked_for_and_allowed(
    docker: Docker, make_driver: MakeDriver
) -> None:
    closed, open_ = make_driver(), make_driver(allow_egress=True)
    with Outside(docker.machine.slot) as outside:
        service = docker.service(env=(("TEST_OUTSIDE", outside.target),))
        asking = replace(service, egress=True)
        refusal = closed.supports(asking)
        assert refusal is not None
        assert "operator" in refusal
        assert open_.supports(asking) is None
        without, with_ = launch(service), launch(asking)
        await open_.start(without)
        await open_.start(with_)
        network = await answer(open_, without, "/network")
        assert "connected" not in network["outside"]
        assert "resolved" not in network["name"]
        # Programs that ask for names at their start do not wait long: docker's own limit is 10 s.
        assert network["nameSeconds"] < 8
        assert "connected" not in network["metadata"]
        network = await answer(open_, with_, "/network")
        assert network["outside"] == "connected"


async def test_published_ports_are_at_the_address_only_and_give_no_way_out(
    docker: Docker, make_driver: MakeDriver
) -> None:
    driver = make_driver(address="localhost")
    with Outside(docker.machine.slot) as outside:
        spec = launch(docker.service(env=(("TEST_OUTSIDE", outside.target),)))
        await driver.start(spec)
        network = await answer(driver, spec, "/network")
        # Packets get out unmasqueraded, and their answers nowhere; what is next to the node may
        # answer, as here, where the test's outside routes everything back to it.
        assert "resolved" not in network["name"]
    client = docker.engine.client()
    details = client.inspect_container(docker.left()["containers"][0].lstrip("/"))
    client.close()
    (bound,) = details["NetworkSettings"]["Ports"]["8000/tcp"]
    assert bound["HostIp"] == "127.0.0.1"


async def test_sessions_do_not_reach_each_other(docker: Docker, driver: DockerDriver) -> None:
    first = launch(docker.service())
    await driver.start(first)
    await answer(driver, first)
    (seen,) = await driver.list()
    env = (("TEST_OUTSIDE", f"{seen.host}:{seen.port}"),)
    for session in ("", first.session_id):
        other = launch(docker.service(env=env), session=session)
        await driver.start(other)
        network = await answer(driver, other, "/network")
        assert "connected" not in network["outside"]
