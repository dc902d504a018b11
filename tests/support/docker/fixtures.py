"""What tests with real engines share: the engines, a registry, and an image in it.

Test files import what they use; all of it is made once in a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.docker import images
from tests.support.docker.engines import Machine, machine
from tests.support.docker.image_registry import ImageRegistry


@dataclass(frozen=True)
class TestImages:
    """Names of images in the registry, by digest."""

    __test__ = False

    replica: str
    gpu: str
    """The same with something that answers as nvidia-smi."""
    user: str
    """The same that says by itself which user it runs as."""


@pytest.fixture(scope="session")
def machine_of_engines() -> Iterator[Machine]:
    """Three engines."""
    with machine(3) as made:
        yield made


@pytest.fixture(scope="session")
def image_registry(machine_of_engines: Machine) -> Iterator[ImageRegistry]:
    """A registry of images."""
    registry = ImageRegistry(machine_of_engines.slot.folder / "registry")
    yield registry
    registry.stop()


@pytest.fixture(scope="session")
def test_images(machine_of_engines: Machine, image_registry: ImageRegistry) -> TestImages:
    """The images, pushed from the first engine."""
    folder = machine_of_engines.slot.folder
    host = image_registry.host
    client = machine_of_engines.engines[0].client()
    try:
        replica = images.replica_tarball(folder)
        images.import_image(client, replica, f"{host}/test/replica")
        images.import_image(client, replica, f"{host}/test/user", ["USER 1234:1234"])
        gpu = images.replica_tarball(folder, nvidia_smi=True)
        images.import_image(client, gpu, f"{host}/test/gpu")
        return TestImages(
            replica=images.push(client, f"{host}/test/replica"),
            gpu=images.push(client, f"{host}/test/gpu"),
            user=images.push(client, f"{host}/test/user"),
        )
    finally:
        client.close()


@pytest.fixture
def engines(machine_of_engines: Machine, image_registry: ImageRegistry) -> Iterator[Machine]:
    """The engines, in order again after the test."""
    yield machine_of_engines
    image_registry.start()
    for engine in machine_of_engines.engines:
        engine.ensure_up()
