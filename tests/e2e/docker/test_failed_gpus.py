"""GPUs that a look at their node finds failed are not given out, and are left."""

from __future__ import annotations

import time
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


@pytest.fixture
def looked_into(docker: Docker, tmp_path: Path) -> Iterator[DockerPlatform]:
    """Nodes whose replicas are looked into all the time; nothing looks beside them."""
    nodes = {index: NodeOptions(gpus=[("0", T4)]) for index in range(2)}
    with docker_platform(
        docker, tmp_path, nodes=nodes, count=2, arguments=("--gpu-probe-interval=1s",)
    ) as made:
        yield made


def lose_gpus(running: DockerPlatform, node: str, replica_id: str) -> None:
    """Let nvidia-smi fail in a replica, as after a reload of its engine's daemon."""
    (container,) = [
        one["Id"]
        for one in running.containers()[node]
        if one["Config"]["Labels"]["dev.podbay.replica"] == replica_id
    ]
    client = running.engines[node].client()
    try:
        made = client.exec_create(container, ["/bin/sh", "-c", "> /tmp/no-nvml"])
        client.exec_start(made["Id"])
        assert client.exec_inspect(made["Id"])["ExitCode"] == 0
    finally:
        client.close()


def looks(running: DockerPlatform, node: str, since: int) -> int:
    """Return how often the replicas of a node were looked into since a time."""
    client = running.engines[node].client()
    try:
        told = client.events(since=since, until=int(time.time()) + 1, decode=True)
        return sum("nvidia-smi" in event.get("Action", "") for event in told)
    finally:
        client.close()


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


def test_a_replica_that_loses_its_gpus_is_replaced(looked_into: DockerPlatform) -> None:
    running, sessions = looked_into, looked_into.client.inferencesessions
    serving = {"readiness_path": "/ready", "stop_grace": 0}
    session = running.session(
        running.service(image=running.docker.images.gpu, serving=serving), gpu=T4
    )
    # In this one nvidia-smi never works: that tells nothing of its GPU.
    other = running.session(running.service(serving=serving), gpu=T4)
    eventually_sync(
        lambda: running.full(session) and running.full(other), "both are ready", timeout=60
    )
    (before,) = sessions.status(session).replicas
    (untouched,) = sessions.status(other).replicas
    begun = int(time.time())
    eventually_sync(lambda: looks(running, before.node, begun) > 1, "it was looked into")
    assert [one.id for one in sessions.status(session).replicas] == [before.id]
    lose_gpus(running, before.node, before.id)

    def replaced() -> bool:
        ready = [one for one in sessions.status(session).replicas if one.phase == "Ready"]
        return len(ready) == 1 and ready[0].id != before.id

    eventually_sync(replaced, "another one takes its place", timeout=60)
    left = next(one for one in sessions.status(session).replicas if one.id == before.id)
    assert left.reason == "GPU_FAILED"
    assert f"GPU 0 of node {before.node}" in left.message
    assert "Failed to initialize NVML" in left.message
    # Its GPU is well, and the new one has it. It is no failure of the service.
    assert set_aside(running) == set()
    now = next(one for one in sessions.status(session).replicas if one.id != before.id)
    assert (now.node, now.gpus, now.failures) == (before.node, ("0",), 0)
    assert [one.id for one in sessions.status(other).replicas] == [untouched.id]
