"""The files of a model of the registry, in the containers of its sessions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from podbay.errors import NotFoundError, PodbayError, SessionFailedError
from tests.e2e.docker.platform import DockerPlatform, docker_platform
from tests.support.docker.fixtures import Docker
from tests.support.eventually import eventually_sync

SERVING = {"readiness_path": "/ready", "stop_grace": 0}


@pytest.fixture(scope="module")
def running(
    shared_docker: Docker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerPlatform]:
    with docker_platform(shared_docker, tmp_path_factory.mktemp("models")) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_left(running: DockerPlatform) -> Iterator[None]:
    yield
    running.end_all()
    eventually_sync(lambda: running.left() == {}, "nothing is left")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "hal-9000"
    (root / "deep/er").mkdir(parents=True)
    (root / "config.json").write_text('{"hal": 9000}')
    (root / "deep/er/weights.bin").write_bytes(b"w" * 1_000_001)
    return root


def mount(model_id: str) -> list[dict[str, Any]]:
    source = {"kind": "Model", "id": model_id}
    return [{"kind": "Data", "name": "model", "mountPath": "/data", "data": {"source": source}}]


def test_replicas_read_the_files_of_a_model(running: DockerPlatform, folder: Path) -> None:
    models = running.client.models
    model = models.create_from_volume(
        folder, account=running.account, name="hal", resources={"memory": "1Gi"}
    )
    models.upload_volume(model, folder)
    session = running.session(running.service(mounts=mount(model.id), serving=SERVING), replicas=2)
    running.client.inferencesessions.wait_ready(session, timeout=60)
    facts = running.facts(session)
    assert facts["files"]["/data"] == {
        "config.json": '{"hal": 9000}',
        "deep/er/weights.bin": "w" * 100,
    }
    assert "/data" not in facts["writable"]
    eventually_sync(lambda: running.full(session), "both are ready")


def test_a_session_waits_for_an_upload_and_starts_after_it(
    running: DockerPlatform, folder: Path
) -> None:
    (folder / "more.bin").write_text("more")
    models, sessions = running.client.models, running.client.inferencesessions
    model = models.create_from_volume(
        folder, account=running.account, name="later", resources={"memory": "1Gi"}
    )
    session = running.session(running.service(mounts=mount(model.id), serving=SERVING))
    with pytest.raises(PodbayError) as waited:
        sessions.wait_ready(session, timeout=2)
    with pytest.raises(PodbayError) as called:
        running.infer(session, {})
    (replica,) = sessions.status(session).replicas
    assert (replica.phase, replica.reason) == ("Pending", "MODEL_NOT_READY")
    placement = sessions.explain_placement(session)
    assert placement.reason == "MODEL_NOT_READY"
    told = [replica.message, str(sessions.explain(session)), placement.summary]
    for text in (*told, str(waited.value), str(called.value)):
        assert model.id in text
        assert "WaitingForUpload" in text
        assert "podbay model upload" in text
    models.upload_volume(model, folder)
    sessions.wait_ready(session, timeout=60)
    assert running.facts(session)["files"]["/data"]["more.bin"] == "more"
    # It was not tried before.
    assert [one.attempt for one in sessions.status(session).replicas] == [1]


def test_a_session_fails_with_the_fetch_of_its_model(running: DockerPlatform) -> None:
    model = running.client.models.create(
        {
            "account": running.account,
            "name": "nowhere",
            "artifact": {"kind": "Volume", "volume": {"files": []}},
            "source": {"kind": "GitLFS", "gitLFS": {"url": "http://127.0.0.1:9/x.git"}},
            "resources": {},
        }
    )
    sessions = running.client.inferencesessions
    session = running.session(running.service(mounts=mount(model.id), serving=SERVING))
    with pytest.raises(SessionFailedError) as waited:
        sessions.wait_ready(session, timeout=100)
    with pytest.raises(PodbayError) as called:
        running.infer(session, {})
    status = sessions.status(session)
    assert (status.status, status.reason) == ("Error", "FetchFailed")
    cause = running.client.models.get(model.id).message
    assert cause is not None
    for error in (waited.value, called.value):
        assert error.metadata["reason"] == "FETCH_FAILED"
    for text in (status.message or "", str(waited.value), str(called.value)):
        assert cause in text
        assert f"podbay model logs {model.id}" in text


def test_a_model_that_is_gone_explains_itself(running: DockerPlatform, folder: Path) -> None:
    with pytest.raises(NotFoundError, match="There is no model"):
        running.service(mounts=mount("no-such-model"))
    models = running.client.models
    model = models.create_from_volume(folder, account=running.account, name="gone", resources={})
    models.upload_volume(model, folder)
    service = running.service(mounts=mount(model.id), serving=SERVING)
    models.delete(model.id)
    sessions = running.client.inferencesessions
    session = running.session(service)
    with pytest.raises(SessionFailedError) as waited:
        sessions.wait_ready(session, timeout=60)
    with pytest.raises(PodbayError) as called:
        running.infer(session, {})
    status = sessions.status(session)
    assert status.reason == "DataUnavailable"
    for error in (waited.value, called.value):
        assert error.metadata["reason"] == "DATA_UNAVAILABLE"
    for told in (status.message or "", str(waited.value), str(called.value)):
        assert "The model was deleted" in told
