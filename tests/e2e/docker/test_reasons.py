"""Why a container does not run, alike in a session's status, to who waits, and to who calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from podbay.errors import PodbayError, SessionFailedError
from podbay.schema.platform import InferenceService
from tests.e2e.docker.platform import DockerPlatform, NodeOptions, docker_platform
from tests.support.docker.fixtures import Docker
from tests.support.eventually import eventually_sync

NOWHERE = "@sha256:" + "0" * 64
T4 = "nvidia.com/gpu-t4"


@pytest.fixture(scope="module")
def running(
    shared_docker: Docker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerPlatform]:
    nodes = {0: NodeOptions(gpus=[("0", T4)])}
    with docker_platform(shared_docker, tmp_path_factory.mktemp("reasons"), nodes=nodes) as made:
        yield made
        made.end_all()
        eventually_sync(lambda: made.left() == {}, "nothing of failed sessions is left")
        eventually_sync(lambda: made.leases() == set(), "no GPU is taken")


def failing(
    running: DockerPlatform, service: InferenceService, reason: str, *evidence: str
) -> PodbayError:
    """Check that a session fails for a reason, everywhere alike; returns a call's error."""
    sessions = running.client.inferencesessions
    session = running.session(service)
    with pytest.raises(SessionFailedError) as waited:
        sessions.wait_ready(session, timeout=60)
    with pytest.raises(PodbayError) as called:
        running.infer(session, {})
    status = sessions.status(session)
    assert called.value.reason == "SESSION_FAILED"
    camel = reason.title().replace("_", "")
    assert (status.status, status.reason, status.ready) == ("Error", camel, False)
    for error in (waited.value, called.value):
        assert error.metadata["reason"] == reason
    texts = {
        "status": status.message or "",
        "explanation": str(sessions.explain(session)),
        "wait_ready": str(waited.value),
        "infer": str(called.value),
    }
    for where, text in texts.items():
        for part in evidence:
            assert part in text, f"{part!r} is not in {where}: {text}"
    return called.value


def test_an_image_that_is_not_there(running: DockerPlatform) -> None:
    image = f"{running.docker.registry.host}/test/no-such-image{NOWHERE}"
    failing(running, running.service(image=image), "IMAGE_NOT_FOUND", "test/no-such-image")


def test_a_digest_that_is_not_there(running: DockerPlatform) -> None:
    image = f"{running.docker.registry.host}/test/replica{NOWHERE}"
    failing(running, running.service(image=image), "IMAGE_DIGEST_NOT_FOUND", NOWHERE[1:])


def test_a_registry_that_is_down(running: DockerPlatform) -> None:
    running.docker.registry.stop()
    try:
        image = f"{running.docker.registry.host}/test/replica{NOWHERE}"
        failing(running, running.service(image=image), "REGISTRY_UNREACHABLE", "connection refused")
    finally:
        running.docker.registry.start()


def test_a_command_that_is_not_found(running: DockerPlatform) -> None:
    failing(running, running.service("no-such-command"), "COMMAND_NOT_FOUND", "no-such-command")


def test_a_crash_at_import(running: DockerPlatform) -> None:
    service = running.service("python3", "/opt/replica.py", "broken")
    called = failing(
        running, service, "REPLICA_EXITED", "exit code 1", "No module named 'no_such_module_here'"
    )
    assert called.metadata["exitCode"] == "1"


def test_memory_that_runs_out(running: DockerPlatform) -> None:
    service = running.service("python3", "/opt/replica.py", "hog")
    called = failing(running, service, "OUT_OF_MEMORY", "64 MiB")
    assert called.metadata["outOfMemory"] == "true"
    assert called.metadata["exitCode"] == "137"


def test_a_port_that_is_never_opened(running: DockerPlatform) -> None:
    service = running.service(
        "python3", "/opt/replica.py", "deaf", serving={"start_timeout": 2, "stop_grace": 0}
    )
    failing(running, service, "PORT_NOT_OPENED", "refused", "0.0.0.0", "start_timeout")


def test_a_probe_that_is_answered_with_500(running: DockerPlatform) -> None:
    service = running.service(
        "python3", "/opt/replica.py", "sick",
        serving={"start_timeout": 2, "stop_grace": 0, "readiness_path": "/ready"},
    )  # fmt: skip
    failing(running, service, "NEVER_READY", "500", "/ready")


def test_a_gpu_type_that_no_node_has(running: DockerPlatform) -> None:
    """It waits: a node that has it may come. Who waits and who calls is told why."""
    sessions = running.client.inferencesessions
    session = running.session(running.service(), gpu="nvidia.com/gpu-none")
    with pytest.raises(PodbayError) as waited:
        sessions.wait_ready(session, timeout=2)
    with pytest.raises(PodbayError) as called:
        running.infer(session, {})
    (replica,) = sessions.status(session).replicas
    assert (replica.phase, replica.reason) == ("Pending", "NO_SUCH_GPU_TYPE")
    placement = sessions.explain_placement(session)
    assert placement.reason == "NO_SUCH_GPU_TYPE"
    assert [verdict.fits for verdict in placement.nodes] == [False] * 3
    texts = (
        replica.message,
        str(sessions.explain(session)),
        str(waited.value),
        str(called.value),
        placement.summary,
    )
    for text in texts:
        assert "nvidia.com/gpu-none" in text
        assert T4 in text
    sessions.terminate(session)


def test_a_disk_that_is_full(running: DockerPlatform) -> None:
    engine = running.docker.machine.add(disk_bytes=32 << 20)
    client = running.client
    for node in ("n0", "n1", "n2"):
        client.nodes.cordon(node)
    try:
        client.nodes.declare({"name": "small", "engine": engine.url})
        failing(running, running.service(), "DISK_FULL", "small")
        assert running.docker.left(engine) == {}
    finally:
        for node in ("n0", "n1", "n2"):
            client.nodes.uncordon(node)
        client.nodes.withdraw("small")
