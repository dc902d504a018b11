"""What tests with real engines share: the engines, a registry, and an image in it.

All but `docker` is made once in a run. A plugin of pytest: tests/conftest.py names it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from podbay_session_manager.declared_nodes import DeclaredGpu
from podbay_session_manager.drivers.containers.driver import DockerDriver
from podbay_session_manager.drivers.containers.settings import DockerSettings
from podbay_session_manager.records import ServiceSpec
from tests.support.docker import images
from tests.support.docker.engines import Engine, Machine, machine
from tests.support.docker.image_registry import ImageRegistry


@dataclass(frozen=True)
class TestImages:
    """Names of images in the registry, by digest."""

    __test__ = False

    replica: str
    gpu: str
    """The same, whose nvidia-smi tells of one T4; that of the others fails."""
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
        images.import_image(
            client, replica, f"{host}/test/user", ["USER 1234:1234", "VOLUME /home"]
        )
        seen = "0, GPU-aaaa, Tesla T4, 15109"
        images.import_image(client, replica, f"{host}/test/gpu", [f'ENV TEST_NVIDIA_SMI="{seen}"'])
        return TestImages(
            replica=images.push(client, f"{host}/test/replica"),
            gpu=images.push(client, f"{host}/test/gpu"),
            user=images.push(client, f"{host}/test/user"),
        )
    finally:
        client.close()


PLATFORM_TARGETS = ("registry", "session-manager", "inference-router", "replica")


@pytest.fixture(scope="session")
def platform_images(
    machine_of_engines: Machine,
    image_registry: ImageRegistry,
    test_images: TestImages,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """The images of Dockerfile, built on the first engine; their names there, by target.

    The replica's is pushed, and its name is by digest.
    """
    context = images.platform_context(tmp_path_factory.mktemp("images"))
    client = machine_of_engines.engines[0].client()
    built: dict[str, str] = {}
    try:
        for target in PLATFORM_TARGETS:
            name = f"{image_registry.host}/podbay/{target}"
            base = {"BASE": f"{image_registry.host}/test/replica:test"}
            images.build(client, context, tag=f"{name}:test", target=target, arguments=base)
            built[target] = f"{name}:test"
        built["replica"] = images.push(client, f"{image_registry.host}/podbay/replica")
    finally:
        client.close()
    return built


EXAMPLE_TARGETS = ("magika", "ocr")


@pytest.fixture(scope="session")
def example_images(
    machine_of_engines: Machine,
    image_registry: ImageRegistry,
    test_images: TestImages,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """The images of examples.Dockerfile, pushed from the first engine; their names by digest."""
    context = images.example_context(tmp_path_factory.mktemp("examples"))
    client = machine_of_engines.engines[0].client()
    built: dict[str, str] = {}
    try:
        for target in EXAMPLE_TARGETS:
            name = f"{image_registry.host}/podbay/{target}"
            base = {"BASE": f"{image_registry.host}/test/replica:test"}
            images.build(client, context, tag=f"{name}:test", target=target, arguments=base)
            built[target] = images.push(client, name)
    finally:
        client.close()
    return built


class Docker:
    """One engine of its own installation for one test."""

    def __init__(self, machine: Machine, images: TestImages, registry: ImageRegistry) -> None:
        self.machine = machine
        self.images = images
        self.registry = registry
        self.engine = machine.engines[1]
        self.installation = uuid.uuid4().hex

    def driver(
        self,
        *,
        folder: Path,
        name: str = "n1",
        address: str = "",
        engine: Engine | None = None,
        gpus: tuple[DeclaredGpu, ...] = (),
        through: str | None = None,
        remote: bool = False,
        cpus: float = 0.0,
        **settings: Any,
    ) -> DockerDriver:
        """Return a driver of an engine.

        Args:
            folder: Where it keeps logs.
            name: The name of its node.
            address: The address that ports are published at; empty for none.
            engine: The engine; the second one unless given.
            gpus: The GPUs that are declared.
            through: An address that stands in for the engine's own.
            remote: Whether the engine does not see this machine's files.
            cpus: The processors that are declared.
            **settings: Further settings.
        """
        chosen = engine or self.engine
        node = replace(chosen.node(name, address=address, gpus=gpus), cpus=cpus)
        if remote:
            node, through = replace(node, engine="tcp://elsewhere:2376"), through or chosen.url
        made = DockerSettings(installation=self.installation, folder=folder, **settings)
        return DockerDriver(node, made, engine=through)

    def service(self, *command: str, **fields: Any) -> ServiceSpec:
        """Return a service of the test image; it serves unless there is a command."""
        fields.setdefault("image", self.images.replica)
        fields.setdefault("memory_bytes", 256 << 20)
        return ServiceSpec(kind="container", name="test", command=command, **fields)

    def left(self, engine: Engine | None = None) -> dict[str, list[str]]:
        """Return what the installation has on an engine: containers, networks, volumes."""
        client = (engine or self.engine).client()
        mine = {"label": [f"dev.podbay.installation={self.installation}"]}
        try:
            found = {
                "containers": [c["Names"][0] for c in client.containers(all=True, filters=mine)],
                "networks": [n["Name"] for n in client.networks(filters=mine)],
                "volumes": [v["Name"] for v in client.volumes(filters=mine)["Volumes"] or ()],
            }
        finally:
            client.close()
        return {kind: names for kind, names in found.items() if names}

    def clean(self) -> None:
        """Remove all that the installation left on the engines."""
        for engine in self.machine.engines:
            client = engine.client()
            try:
                left = self.left(engine)
                for name in left.get("containers", ()):
                    client.remove_container(name.lstrip("/"), force=True, v=True)
                for name in left.get("networks", ()):
                    client.remove_network(name)
                for name in left.get("volumes", ()):
                    client.remove_volume(name)
            finally:
                client.close()


def _installation(
    machine: Machine, images: TestImages, registry: ImageRegistry
) -> Iterator[Docker]:
    made = Docker(machine, images, registry)
    yield made
    registry.start()
    for engine in machine.engines:
        engine.ensure_up()
    made.clean()


@pytest.fixture
def docker(
    machine_of_engines: Machine, test_images: TestImages, image_registry: ImageRegistry
) -> Iterator[Docker]:
    """An installation on the engines, which are in order again after the test."""
    yield from _installation(machine_of_engines, test_images, image_registry)


@pytest.fixture(scope="module")
def shared_docker(
    machine_of_engines: Machine, test_images: TestImages, image_registry: ImageRegistry
) -> Iterator[Docker]:
    """The same for all tests of a module."""
    yield from _installation(machine_of_engines, test_images, image_registry)
