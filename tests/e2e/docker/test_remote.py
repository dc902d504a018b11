"""Engines of other machines: over SSH, and over TLS."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from podbay_session_manager.declared_nodes import DeclaredNode, EngineTls
from podbay_session_manager.drivers.containers.driver import DockerDriver
from podbay_session_manager.drivers.containers.settings import DockerSettings
from podbay_session_manager.drivers.contract import DriverUnreachableError
from tests.support.docker.fixtures import Docker
from tests.support.docker.free_port import free_port
from tests.support.docker.remote import Certificates, SshServer
from tests.support.docker.runs import answer, gone, launch, log
from tests.support.eventually import eventually


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[SshServer]:
    with SshServer(tmp_path / "ssh") as server:
        yield server


def over_ssh(docker: Docker, ssh: SshServer, folder: Path) -> DockerDriver:
    engine = f"ssh://root@127.0.0.1:{ssh.port}{docker.engine.socket}"
    settings = DockerSettings(docker.installation, folder, ssh_options=ssh.options)
    return DockerDriver(DeclaredNode("far", engine), settings)


def tunnels() -> list[int]:
    return [p.pid for p in psutil.Process().children() if p.name() == "ssh"]


async def test_an_engine_over_ssh(docker: Docker, ssh: SshServer, tmp_path: Path) -> None:
    driver = over_ssh(docker, ssh, tmp_path / "logs")
    spec = launch(docker.service())
    try:
        await driver.start(spec)
        await answer(driver, spec)
        assert "serving on 8000" in await log(driver, spec)
        # The tunnel breaks, and is made again.
        (tunnel,) = tunnels()
        os.kill(tunnel, signal.SIGKILL)

        async def back() -> bool:
            try:
                return len(await driver.list()) == 1
            except DriverUnreachableError:
                return False

        await eventually(back, "the engine is reached again")
        (again,) = tunnels()
        assert again != tunnel
        await gone(driver, spec)
    finally:
        await driver.close()
    assert tunnels() == []
    assert docker.left() == {}


async def test_an_ssh_server_that_is_not_there(
    docker: Docker, ssh: SshServer, tmp_path: Path
) -> None:
    driver = over_ssh(docker, ssh, tmp_path / "logs")
    ssh.stop()
    with pytest.raises(DriverUnreachableError, match="ssh said: .*refused"):
        await driver.list()
    ssh.start()

    async def back() -> bool:
        try:
            return await driver.list() == []
        except DriverUnreachableError:
            return False

    await eventually(back, "the engine is reached")
    await driver.close()


async def test_an_unknown_host_is_refused(docker: Docker, ssh: SshServer, tmp_path: Path) -> None:
    (tmp_path / "ssh" / "known").write_text("")
    driver = over_ssh(docker, ssh, tmp_path / "logs")
    with pytest.raises(DriverUnreachableError, match="Host key verification failed"):
        await driver.list()
    await driver.close()


async def test_an_engine_over_tls(docker: Docker, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "certificates")
    port = free_port()
    engine = docker.machine.add(options=certificates.engine_options(port))
    tls = EngineTls(certificates.ca, *certificates.client)
    node = DeclaredNode("tls", f"tcp://127.0.0.1:{port}", tls)
    settings = DockerSettings(docker.installation, tmp_path / "logs")
    driver = DockerDriver(node, settings)
    spec = launch(docker.service())
    try:
        await driver.start(spec)
        await answer(driver, spec)
        await gone(driver, spec)
    finally:
        await driver.close()
    assert docker.left(engine) == {}
    # Neither without a certificate nor with one of another authority.
    others = Certificates(tmp_path / "others")
    for wrong in (None, EngineTls(others.ca, *others.client)):
        driver = DockerDriver(replace(node, tls=wrong), settings)
        with pytest.raises(DriverUnreachableError):
            await driver.list()
        await driver.close()
