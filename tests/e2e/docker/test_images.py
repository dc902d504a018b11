"""The images of the platform, built without network, and the platform made of them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from podbay import Client
from podbay.errors import PodbayError
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


@contextmanager
def composed(
    docker: Docker, images: dict[str, str], files: Sequence[str], **variables: str
) -> Iterator[Compose]:
    """Runs compose files on the first engine, with images and ports of its own."""
    engine = docker.machine.engines[0]
    client = engine.client()
    tag = f"test-{uuid.uuid4().hex[:8]}"
    for target in ("registry", "session-manager", "inference-router"):
        client.tag(images[target], f"podbay/{target}", tag)
    client.close()
    environment = {
        **os.environ,
        "DOCKER_HOST": engine.url,
        "DOCKER_SOCKET": str(engine.socket),
        "PODBAY_TAG": tag,
        "PODBAY_REGISTRY_PORT": str(free_port()),
        "PODBAY_SESSION_MANAGER_PORT": str(free_port()),
        "PODBAY_ROUTER_PORT": str(free_port()),
        **variables,
    }
    named = [part for file in files for part in ("-f", str(REPOSITORY / file))]

    def run(*arguments: str) -> str:
        done = subprocess.run(
            ["docker-compose", "-p", tag, *named, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.port = environment["PODBAY_REGISTRY_PORT"]  # type: ignore[attr-defined]
    try:
        yield run
    finally:
        run("down", "-v", "-t", "5")


@pytest.fixture
def compose(
    docker: Docker, platform_images: dict[str, str], database_of_compose: str
) -> Iterator[Compose]:
    """compose.yaml, over each database."""
    with composed(
        docker, platform_images, ["compose.yaml"], PODBAY_DATABASE=database_of_compose
    ) as run:
        yield run


@pytest.fixture
def compose_tls(docker: Docker, platform_images: dict[str, str]) -> Iterator[Compose]:
    """compose.yaml with compose.tls.yaml."""
    with composed(
        docker,
        platform_images,
        ["compose.yaml", "compose.tls.yaml"],
        PODBAY_DATABASE="",
        PODBAY_HOST="localhost",
        PODBAY_REGISTRY_SERVICE_PORT=str(free_port()),
        PODBAY_SESSION_MANAGER_SERVICE_PORT=str(free_port()),
    ) as run:
        yield run


def admin_token(compose: Compose) -> str:
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
    return token[0]


def use(podbay: Client) -> None:
    """Create a session, and get an answer from it."""
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


def test_compose_brings_up_a_platform_that_answers(compose: Compose) -> None:
    compose("up", "-d")
    endpoint = f"127.0.0.1:{compose.port}"  # type: ignore[attr-defined]
    with Client(endpoint, admin_token(compose)) as podbay:
        use(podbay)


def test_compose_brings_up_a_platform_with_tls(compose_tls: Compose, tmp_path: Path) -> None:
    compose_tls("up", "-d")
    token = admin_token(compose_tls)
    certs = "/var/lib/podbay-certs"
    show = ("exec", "-T", "registry", "sh", "-c")
    ca_file = tmp_path / "ca.crt"
    ca_file.write_text(compose_tls(*show, f"cat {certs}/registry/ca.crt"))
    endpoint = f"localhost:{compose_tls.port}"  # type: ignore[attr-defined]
    with Client(endpoint, token, ca_file=ca_file) as podbay:
        use(podbay)
    with Client(endpoint, token) as plain, pytest.raises(PodbayError, match="TLS_MISMATCH"):
        plain.installation()
    # A service sees its own key, and no other's.
    keys = compose_tls(*show, f"ls {certs}/*.key {certs}/*/*.key 2>/dev/null || true").split()
    assert keys == [f"{certs}/registry/tls.key"]
