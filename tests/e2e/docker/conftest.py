"""Tests with real Docker Engines."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from podbay_session_manager.drivers.containers.driver import DockerDriver
from tests.support.docker.faulty_socket import FaultySocket
from tests.support.docker.fixtures import Docker

MakeDriver = Callable[..., DockerDriver]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all of them."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.needs_docker)


@pytest.fixture
async def make_driver(docker: Docker, tmp_path: Path) -> AsyncIterator[MakeDriver]:
    """Makes drivers that are closed at the end."""
    made: list[DockerDriver] = []

    def make(**settings: Any) -> DockerDriver:
        made.append(docker.driver(folder=tmp_path / "logs", **settings))
        return made[-1]

    yield make
    for driver in made:
        await driver.close()


@pytest.fixture
def driver(make_driver: MakeDriver) -> DockerDriver:
    """A driver of the second engine, whose containers are reached by their own addresses."""
    return make_driver()


@pytest.fixture
def faulty(docker: Docker) -> Iterator[FaultySocket]:
    """A socket before that of the second engine, to break connections with."""
    path = docker.machine.slot.folder / f"{uuid.uuid4().hex[:8]}.sock"
    made = FaultySocket(path, docker.engine.socket)
    yield made
    made.close()
