"""The files of a model on a node of another machine: copied there once, over TLS."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.docker.platform import DockerPlatform, docker_platform
from tests.support.docker.engines import Engine
from tests.support.docker.fixtures import Docker
from tests.support.docker.free_port import free_port
from tests.support.docker.remote import Certificates
from tests.support.eventually import eventually_sync

# Long enough on its way that it is seen there.
_WEIGHTS = 48 << 20
_LIVING = "SELECT id FROM sessions WHERE state != 'ENDED'"
_SERVING = {"readiness_path": "/ready", "stop_grace": 0}


@pytest.fixture
def running(docker: Docker, tmp_path: Path) -> Iterator[DockerPlatform]:
    with docker_platform(docker, tmp_path, count=1) as made:
        made.client.nodes.cordon("n0")
        yield made


@pytest.fixture
def far(running: DockerPlatform, tmp_path: Path) -> Iterator[Engine]:
    """The engine of the only node that takes replicas, which is reached as on another machine."""
    certificates = Certificates(tmp_path / "certificates")
    port = free_port()
    engine = running.docker.machine.add(options=certificates.engine_options(port))
    running.client.nodes.declare(
        {"name": "far", "engine": f"tcp://127.0.0.1:{port}", "tls": certificates.declared()}
    )
    yield engine
    running.end_all()
    eventually_sync(lambda: running.client.nodes.get("far").replicas == 0, "the node is empty")
    running.client.nodes.withdraw("far")


class Told:
    """What a session's status says of its start, looked at again and again."""

    def __init__(self, running: DockerPlatform, session: str) -> None:
        self._running = running
        self._session = session
        self._over = threading.Event()
        self.messages: set[str] = set()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Look meanwhile."""
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _look(self) -> None:
        with self._running.platform.client() as client:
            while not self._over.is_set():
                status = client.inferencesessions.status(self._session)
                self.messages |= {one.message for one in status.replicas}
                self.messages.add(status.explanation)

    def having(self, *words: str) -> list[str]:
        """Return the messages with all of these words."""
        return [text for text in self.messages if all(word in text for word in words)]


def start(running: DockerPlatform, model_id: str) -> tuple[str, Told]:
    """Start a session that mounts a model; return it, ready, and what it said before."""
    source = {"kind": "Model", "id": model_id}
    mount = {"kind": "Data", "name": "model", "mountPath": "/data", "data": {"source": source}}
    session = running.session(running.service(mounts=[mount], memory="512Mi", serving=_SERVING))
    told = Told(running, session)
    with told.listening():
        running.client.inferencesessions.wait_ready(session, timeout=90)
    return session, told


def test_a_model_is_copied_to_a_remote_node_once(
    running: DockerPlatform, far: Engine, tmp_path: Path
) -> None:
    folder = tmp_path / "hal-9000"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "weights.bin").write_bytes(b"w" * _WEIGHTS)
    models = running.client.models
    model = models.create_from_volume(
        folder, account=running.account, name="hal", resources={"memory": "1Gi"}
    )
    models.upload_volume(model, folder)
    first, told = start(running, model.id)
    (replica,) = running.client.inferencesessions.status(first).replicas
    assert replica.node == "far"
    assert running.facts(first)["files"]["/data"] == {
        ".podbay-complete": "",
        "config.json": "{}",
        "weights.bin": "w" * 100,
    }
    # How far it was was told, in the replica's message and in the explanation.
    copying = told.having(f"copying the Model {model.id} to the node", " of 48.0 MiB (")
    assert any(text.startswith("copying") for text in copying), told.messages
    assert any("is being started (attempt 1): copying" in text for text in copying), told.messages
    (volume,) = running.docker.left(far)["volumes"]
    complete = far.folder / "data/volumes" / volume / "_data/.podbay-complete"
    copied = complete.stat().st_mtime_ns
    # The second one finds the copy.
    second, told = start(running, model.id)
    assert running.facts(second)["files"]["/data"]["config.json"] == "{}"
    assert not told.having("copying"), told.messages
    assert running.docker.left(far)["volumes"] == [volume]
    assert complete.stat().st_mtime_ns == copied
    # Once nobody uses it, it goes; that is looked at now and then, and at every start.
    running.end_all()
    eventually_sync(lambda: running.stored(_LIVING) == [], "both have ended")
    running.platform.service("session-manager").kill()
    eventually_sync(lambda: running.docker.left(far) == {}, "the copy is gone", timeout=60)
