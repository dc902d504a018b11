"""The images of the platform, built without network, and the platform made of them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from podbay import Client
from podbay.local import mocks
from podbay_session_manager.drivers.containers.driver import DockerDriver
from podbay_session_manager.records import Reason, ServiceSpec
from tests.support.databases import BACKENDS
from tests.support.docker.fixtures import Docker
from tests.support.docker.free_port import free_port
from tests.support.docker.runs import answer, ended, launch, log, seen
from tests.support.eventually import eventually_sync

REPOSITORY = Path(__file__).resolve().parents[3]
# Building them is part of the first test that wants them.
pytestmark = pytest.mark.timeout(600)


def mock(image: str, name: str = "podbay.local.mocks.TextCompletion") -> ServiceSpec:
    return ServiceSpec(kind="mock", name=name, image=image, memory_bytes=512 << 20)


async def test_the_replica_serves_a_mock(
    docker: Docker, driver: DockerDriver, platform_images: dict[str, str]
) -> None:
    spec = launch(mock(platform_images["replica"]))
    await driver.start(spec)
    await answer(driver, spec)
    found = await seen(driver, spec)
    assert found is not None

    def call() -> str:
        request = urllib.request.Request(
            f"http://{found.host}:{found.port}/generate",
            json.dumps({"text": "Open the pod bay doors"}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return str(response.read().decode())

    assert "text" in await asyncio.to_thread(call)
    assert "is ready on http://0.0.0.0:8000" in await log(driver, spec)
    await driver.stop(spec.replica_id, 10)
    assert (await ended(driver, spec)).exit_code == 0


async def test_a_mock_that_is_not_in_the_image(
    docker: Docker, driver: DockerDriver, platform_images: dict[str, str]
) -> None:
    spec = launch(mock(platform_images["replica"], "no.such.Mock"))
    await driver.start(spec)
    found = await ended(driver, spec)
    assert (found.exit_code, found.reason) == (78, Reason.MOCK_NOT_IMPORTABLE)


def test_no_image_runs_as_root(docker: Docker, platform_images: dict[str, str]) -> None:
    client = docker.machine.engines[0].client()
    for name in platform_images.values():
        assert client.inspect_image(name)["Config"]["User"] == "65532:65532"
    client.close()


Compose = Callable[..., str]


@pytest.fixture(params=BACKENDS)
def database_of_compose(request: pytest.FixtureRequest) -> str:
    """The URL of a PostgreSQL, or nothing for SQLite."""
    if request.param == "sqlite":
        return ""
    url: str = request.getfixturevalue("postgresql_database")
    return url


@pytest.fixture
def compose(
    docker: Docker, platform_images: dict[str, str], database_of_compose: str
) -> Iterator[Compose]:
    """Runs compose.yaml on the first engine, with images and ports of its own."""
    engine = docker.machine.engines[0]
    client = engine.client()
    tag = f"test-{uuid.uuid4().hex[:8]}"
    for target in ("registry", "session-manager", "inference-router"):
        client.tag(platform_images[target], f"podbay/{target}", tag)
    client.close()
    environment = {
        **os.environ,
        "DOCKER_HOST": engine.url,
        "DOCKER_SOCKET": str(engine.socket),
        "PODBAY_TAG": tag,
        "PODBAY_REGISTRY_PORT": str(free_port()),
        "PODBAY_SESSION_MANAGER_PORT": str(free_port()),
        "PODBAY_ROUTER_PORT": str(free_port()),
        "PODBAY_DATABASE": database_of_compose,
    }

    def run(*arguments: str) -> str:
        done = subprocess.run(
            ["docker-compose", "-p", tag, "-f", str(REPOSITORY / "compose.yaml"), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.port = environment["PODBAY_REGISTRY_PORT"]  # type: ignore[attr-defined]
    yield run
    run("down", "-v", "-t", "5")


def test_compose_brings_up_a_platform_that_answers(compose: Compose) -> None:
    compose("up", "-d")
    # The first look can come before the service has started.
    token: list[str] = []

    def has_token() -> bool:
        try:
            shown = compose("exec", "-T", "registry", "cat", "/var/lib/podbay/admin-token")
        except AssertionError:
            return False
        token[:] = [shown.strip()]
        return bool(token[0])

    eventually_sync(has_token, "the registry has made a token", timeout=60)
    endpoint = f"127.0.0.1:{compose.port}"  # type: ignore[attr-defined]
    with Client(endpoint, token[0]) as podbay:
        account = podbay.installation().account
        service = podbay.inferenceservices.create_mock(mocks.TextCompletion, account=account)
        made = podbay.inferencesessions.create(
            {"account": account, "inferenceService": service.id, "replicas": 1}
        )
        podbay.inferencesessions.wait_ready(made.inferencesession.id, timeout=60)
        with podbay.inferencesessions.client(
            made.inferencesession.id, made.token, interface=service.interface
        ) as client:
            assert client.infer({"text": "Open the pod bay doors, Hal!"})
        podbay.inferencesessions.terminate(made.inferencesession.id)
