"""Sessions of many needs on three nodes with GPUs of two types."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.docker.platform import DockerPlatform, NodeOptions, docker_platform
from tests.support.docker.fixtures import Docker
from tests.support.docker.paced import PacedCalls
from tests.support.eventually import eventually, eventually_sync

T4 = "nvidia.com/gpu-t4"
A100 = "nvidia.com/gpu-a100"
NODES = {
    0: NodeOptions(gpus=[(str(n), T4) for n in range(4)], cpu="4", memory="2Gi"),
    1: NodeOptions(gpus=[("0", T4), ("1", T4)], cpu="4", memory="2Gi"),
    2: NodeOptions(gpus=[("0", A100), ("1", A100)], cpu="4", memory="2Gi"),
}
# What starts may take its time where the machine is busy; when it is placed may not.
_ROOM_SECONDS = 2.0


@pytest.fixture(autouse=True)
def nothing_is_left(running: DockerPlatform) -> Iterator[None]:
    yield
    running.end_all()

    def none() -> bool:
        look(running)
        return running.left() == {}

    eventually_sync(none, "nothing is left")
    eventually_sync(lambda: running.leases() == set(), "no GPU is taken")


@dataclass(frozen=True)
class Want:
    """What a session asks for."""

    gpu: str | None = None
    gpus: int = 1
    cpu: str = "100m"
    memory: str = "64Mi"
    replicas: int = 1


# Together more than there is: the last ones wait.
WANTS = (
    Want(T4, 1),
    Want(A100, 1),
    Want(None, cpu="1"),
    Want(T4, 2),
    Want(T4, 1, memory="256Mi"),
    Want(None, memory="512Mi", replicas=2),
    Want(A100, 1, cpu="2"),
    Want(T4, 1),
    Want(T4, 1, cpu="500m"),
    Want(T4, 4),
    # With a whole CPU, as it is timed: Python begins slowly with a tenth of one.
    Want(A100, 2, cpu="1"),
    Want(None, cpu="3900m", memory="1900Mi"),
)
WAITING = (9, 10, 11)


@pytest.fixture(scope="module")
def running(
    shared_docker: Docker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerPlatform]:
    folder = tmp_path_factory.mktemp("placement")
    with docker_platform(shared_docker, folder, nodes=NODES) as made:
        yield made


def visible_gpus(pid: int) -> str | None:
    """Return what the process of a container was told of its GPUs; None where it has ended."""
    try:
        environment = Path("/proc", str(pid), "environ").read_bytes()
    except OSError:
        return None
    entries = dict(e.split("=", 1) for e in environment.decode().split("\0") if "=" in e)
    # Before it becomes the replica it is the engine's own program.
    return entries.get("NVIDIA_VISIBLE_DEVICES", "") if "PODBAY_REPLICA_ID" in entries else None


def look(running: DockerPlatform) -> Counter[tuple[str, str]]:
    """Return how many running containers have each GPU, after checking how they were told."""
    seen: Counter[tuple[str, str]] = Counter()
    for node, found in running.containers().items():
        for container in found:
            asked = container["HostConfig"]["DeviceRequests"] or []
            ids = [id_ for request in asked for id_ in request["DeviceIDs"] or []]
            if not container["State"]["Running"]:
                continue
            visible = visible_gpus(container["State"]["Pid"])
            assert visible in {",".join(ids) or "void", None}, (visible, container["HostConfig"])
            seen.update((node, id_) for id_ in ids)
    assert max(seen.values(), default=0) <= 1, f"a GPU was given twice: {seen}"
    return seen


def make(running: DockerPlatform, want: Want) -> str:
    service = running.service(
        cpu=want.cpu, memory=want.memory, serving={"readiness_path": "/ready", "stop_grace": 0}
    )
    return running.session(service, gpu=want.gpu, gpus=want.gpus, replicas=want.replicas)


def start_all(running: DockerPlatform, sessions: list[str]) -> None:
    def ready() -> bool:
        look(running)
        return all(running.full(session) for session in sessions)

    eventually_sync(ready, "all that fit are ready", timeout=60)


def test_no_gpu_is_given_twice_and_what_waits_says_why_and_starts(running: DockerPlatform) -> None:
    sessions = running.client.inferencesessions
    made = [make(running, want) for want in WANTS]
    waiting = [made[index] for index in WAITING]
    start_all(running, [one for one in made if one not in waiting])
    assert sum(look(running).values()) == 8
    held = running.leases()
    assert {(node, gpu) for node, gpu, _ in held} == set(look(running))
    # What waits says why, node by node, in its status and its explanation.
    for session, parts in zip(
        waiting,
        (("4 GPUs", T4, "n0", "n1"), ("2 GPUs", A100, "n2"), ("3.9 CPUs", "n0", "n1", "n2")),
        strict=True,
    ):
        (replica,) = sessions.status(session).replicas
        assert (replica.phase, replica.reason) == ("Pending", "INSUFFICIENT_CAPACITY")
        placement = sessions.explain_placement(session)
        assert {verdict.node for verdict in placement.nodes} == {"n0", "n1", "n2"}
        assert all(verdict.reasons and not verdict.fits for verdict in placement.nodes)
        for text in (replica.message, str(sessions.explain(session))):
            for part in parts:
                assert part in text, text
    # Room for the one with two A100: it starts when both are free, and not before.
    sessions.terminate(made[1])
    eventually_sync(lambda: sum(look(running).values()) == 7, "one is gone")
    assert running.client.inferencesessions.status(made[10]).ready_replicas == 0
    (last,) = running.client.inferencesessions.status(made[6]).replicas
    begun = time.monotonic()
    sessions.terminate(made[6])
    eventually_sync(
        lambda: last.id not in {replica for _, _, replica in running.leases()}, "there is room"
    )
    room = time.monotonic()

    def starts() -> bool:
        (replica,) = running.client.inferencesessions.status(made[10]).replicas
        return bool(replica.phase != "Pending")

    eventually_sync(starts, "it starts where there is room", timeout=_ROOM_SECONDS)
    eventually_sync(lambda: running.full(made[10]), "it is ready", timeout=30)
    print(f"room after {room - begun:.2f} s, ready {time.monotonic() - room:.2f} s later")
    assert sum(look(running).values()) == 8


async def test_a_drained_node_is_left_without_a_failed_call(running: DockerPlatform) -> None:
    session = make(running, Want(None, replicas=3))
    await eventually(lambda: running.full(session), "all are ready", timeout=60)
    ready: list[int] = []
    async with (
        running.platform.async_client() as client,
        client.inferencesessions.client(
            session, await client.inferencesessions.token(session), endpoint="echo"
        ) as calls,
        PacedCalls(calls) as traffic,
    ):
        (node,) = [
            replica.node
            for replica in (await client.inferencesessions.status(session)).replicas
            if replica.index == 0
        ]
        await client.nodes.drain(node)

        async def left() -> bool:
            ready.append((await client.inferencesessions.status(session)).ready_replicas)
            found = await client.nodes.get(node)
            return found.state == "Draining" and found.replicas == 0

        await eventually(left, "the node is empty", timeout=30)
        await traffic.more(50)
        await client.nodes.undrain(node)
    assert traffic.failures == [], traffic.reasons()
    # The new one starts first.
    assert min(ready) == 3
