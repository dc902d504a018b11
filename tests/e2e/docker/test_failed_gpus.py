"""GPUs that a look at their node finds failed are not given out, and are left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.docker.platform import DockerPlatform, NodeOptions, docker_platform
from tests.support.docker.fixtures import Docker
from tests.support.eventually import eventually_sync

T4 = "nvidia.com/gpu-t4"
# The image whose nvidia-smi tells of the GPU 0 only, or fails.
_PROBE = "podbay-test-probe:latest"


def tell(docker: Docker, image: str) -> None:
    """Let the looks at the engines use an image."""
    repository, _, tag = _PROBE.partition(":")
    for engine in docker.machine.engines[:3]:
        client = engine.client()
        try:
            client.pull(image)
            client.tag(image, repository, tag, force=True)
        finally:
            client.close()


@pytest.fixture
def running(docker: Docker, tmp_path: Path) -> Iterator[DockerPlatform]:
    tell(docker, docker.images.gpu)
    nodes = {
        0: NodeOptions(gpus=[("0", T4), ("1", T4)]),
        1: NodeOptions(gpus=[("0", T4)]),
    }
    arguments = (f"--gpu-probe-image={_PROBE}",)
    with docker_platform(docker, tmp_path, nodes=nodes, arguments=arguments) as made:
        yield made


def set_aside(running: DockerPlatform) -> set[tuple[str, str]]:
    return {
        (node.name, gpu.id)
        for node in running.client.nodes.list()
        for gpu in node.gpus
        if gpu.set_aside
    }


def test_a_failed_gpu_is_set_aside_and_left(running: DockerPlatform) -> None:
    sessions = running.client.inferencesessions
    eventually_sync(lambda: set_aside(running) == {("n0", "1")}, "the missing one is set aside")
    (node,) = [node for node in running.client.nodes.list() if node.name == "n0"]
    assert any("GPU 1" in line for line in node.differences)
    service = running.service(serving={"readiness_path": "/ready", "stop_grace": 0})
    made = [running.session(service, gpu=T4) for _ in range(2)]
    eventually_sync(lambda: all(running.full(one) for one in made), "both are ready", timeout=60)
    assert {(node, gpu) for node, gpu, _ in running.leases()} == {("n0", "0"), ("n1", "0")}
    third = running.session(service, gpu=T4)
    eventually_sync(
        lambda: sessions.explain_placement(third).reason == "INSUFFICIENT_CAPACITY", "it waits"
    )
    text = str(sessions.explain_placement(third).nodes)
    assert "set aside" in text
    sessions.terminate(third)
    # The driver of n0 begins to fail; a session manager that starts looks at once.
    client = running.engines["n0"].client()
    client.tag(running.docker.images.replica, *_PROBE.split(":"), force=True)
    client.close()
    places = {sessions.status(one).replicas[0].node: one for one in made}
    sessions.terminate(places["n1"])
    (there,) = sessions.status(places["n0"]).replicas
    running.platform.service("session-manager").kill()
    eventually_sync(lambda: ("n0", "0") in set_aside(running), "the failed one is set aside")
    eventually_sync(
        lambda: running.full(places["n0"]) and {n for n, _, _ in running.leases()} == {"n1"},
        "its replica has moved",
    )
    (left,) = [one for one in sessions.status(places["n0"]).replicas if one.id == there.id]
    assert left.reason == "GPU_FAILED"
    assert "GPU 0 of node n0" in left.message
