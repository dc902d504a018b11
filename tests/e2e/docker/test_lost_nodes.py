"""Nodes whose engines end, freeze or cannot be reached, under traffic."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from podbay import AsyncClient
from tests.e2e.docker.platform import DockerPlatform, NodeOptions, docker_platform
from tests.support.docker.faulty_socket import FaultySocket
from tests.support.docker.fixtures import Docker
from tests.support.docker.paced import PacedCalls
from tests.support.eventually import eventually, eventually_sync

T4 = "nvidia.com/gpu-t4"
_GRACE_SECONDS = 3
# A node is one of two that have what the session asks for; the third one is not.
_LOST = "n1"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def cut(shared_docker: Docker) -> Iterator[FaultySocket]:
    engine = shared_docker.machine.engines[1]
    path = shared_docker.machine.slot.folder / f"{uuid.uuid4().hex[:8]}.sock"
    made = FaultySocket(path, engine.socket)
    yield made
    made.close()


@pytest.fixture(scope="module")
def running(
    shared_docker: Docker, cut: FaultySocket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerPlatform]:
    two = [("0", T4), ("1", T4)]
    nodes = {
        0: NodeOptions(gpus=two),
        1: NodeOptions(gpus=two, engine=cut.url),
        2: NodeOptions(gpus=two),
    }
    folder = tmp_path_factory.mktemp("lost")
    arguments = (f"--node-grace={_GRACE_SECONDS}s",)
    with docker_platform(shared_docker, folder, nodes=nodes, arguments=arguments) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_left(running: DockerPlatform) -> Iterator[None]:
    yield
    running.docker.engine.ensure_up()
    running.end_all()
    eventually_sync(lambda: running.left() == {}, "nothing is left")
    eventually_sync(lambda: running.leases() == set(), "no GPU is taken")


@asynccontextmanager
async def under_traffic(
    running: DockerPlatform, replicas: int
) -> AsyncIterator[tuple[AsyncClient, str, PacedCalls]]:
    """Yield a client, a session with GPUs whose replicas are ready, and calls to it."""
    service = running.service(serving={"readiness_path": "/ready", "stop_grace": 0})
    session = running.session(service, gpu=T4, gpus=1, replicas=replicas)
    await eventually(lambda: running.full(session), "all are ready", timeout=60)
    async with (
        running.platform.async_client() as client,
        client.inferencesessions.client(
            session, await client.inferencesessions.token(session), endpoint="echo"
        ) as calls,
        PacedCalls(calls) as traffic,
    ):
        yield client, session, traffic


async def replicas(client: AsyncClient, session: str) -> dict[str, Any]:
    status = await client.inferencesessions.status(session)
    return {replica.id: replica for replica in status.replicas}


def cut_it(running: DockerPlatform, cut: FaultySocket) -> None:
    cut.cut()


def kill_it(running: DockerPlatform, cut: FaultySocket) -> None:
    running.docker.engine.kill()


def pause_it(running: DockerPlatform, cut: FaultySocket) -> None:
    running.docker.engine.pause()


def bring_back(running: DockerPlatform, cut: FaultySocket) -> None:
    cut.mend()
    running.docker.engine.ensure_up()


@pytest.mark.parametrize("lose", [cut_it, kill_it, pause_it])
async def test_an_engine_is_lost_and_comes_back(
    running: DockerPlatform,
    cut: FaultySocket,
    lose: Callable[[DockerPlatform, FaultySocket], None],
) -> None:
    """The containers go on: only what controls them is away. So no call fails at all."""
    async with under_traffic(running, 3) as (client, session, traffic):
        before = await replicas(client, session)
        there = {r.id for r in before.values() if r.node == _LOST and r.phase == "Ready"}
        assert there, before
        held = {lease for lease in running.leases() if lease[0] == _LOST}
        await asyncio.to_thread(lose, running, cut)
        try:
            await eventually(lambda: state_of(client, "Unreachable"), "it is known", timeout=40)
            node = await client.nodes.get(_LOST)
            assert "cannot be reached" in node.message

            async def elsewhere() -> bool:
                now = await replicas(client, session)
                others = [r for r in now.values() if r.phase == "Ready" and r.node != _LOST]
                lost = {r.id for r in now.values() if r.reason == "NODE_LOST"}
                return there <= lost and len(others) == 3

            await eventually(elsewhere, "others take their place", timeout=40)
            for replica_id, replica in (await replicas(client, session)).items():
                if replica_id in there:
                    assert _LOST in replica.message
                    assert f"{_GRACE_SECONDS} s" in replica.message
            # What it has is not given out.
            assert {lease for lease in running.leases() if lease[0] == _LOST} == held
            await traffic.more(50)
        finally:
            await asyncio.to_thread(bring_back, running, cut)
        await eventually(lambda: state_of(client, "Ready"), "it is back")
        await eventually(
            lambda: len(running.containers()[_LOST]) == 0 and not running.docker.left(),
            "what was left on it is removed",
        )
        await eventually(
            lambda: not any(lease[0] == _LOST for lease in running.leases()), "its GPUs are free"
        )
        await traffic.more(50)
        assert (await client.inferencesessions.status(session)).ready_replicas == 3
    assert traffic.failures == [], traffic.reasons()


async def test_a_machine_is_lost_with_all_that_runs_on_it(
    running: DockerPlatform, cut: FaultySocket
) -> None:
    """Only calls in flight to it fail, and say so."""
    async with under_traffic(running, 3) as (client, session, traffic):
        docker = running.docker.engine.client()
        there = running.containers()[_LOST]
        assert there
        cut.cut()
        for container in there:
            docker.kill(container["Id"])
        docker.close()
        try:

            async def elsewhere() -> bool:
                now = await replicas(client, session)
                return sum(r.phase == "Ready" and r.node != _LOST for r in now.values()) == 3

            await eventually(elsewhere, "others take their place", timeout=40)
            await traffic.more(50)
        finally:
            cut.mend()
        await eventually(lambda: not running.docker.left(), "what was left on it is removed")
        await traffic.more(50)
    assert set(traffic.reasons()) <= {"REPLICA_CONNECTION_LOST"}, traffic.reasons()
    assert len(traffic.failures) <= 3 * len(there), [str(failure) for failure in traffic.failures]


async def state_of(client: AsyncClient, state: str) -> bool:
    return (await client.nodes.get(_LOST)).state == state
