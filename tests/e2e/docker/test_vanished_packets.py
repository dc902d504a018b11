"""A node whose packets vanish: nothing refuses a connection, and nothing answers on one."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from podbay import AsyncClient
from podbay.types import ReplicaStatus
from tests.e2e.docker.platform import DockerPlatform, NodeOptions, docker_platform
from tests.support.docker.engines import Engine
from tests.support.docker.fixtures import Docker
from tests.support.docker.free_port import free_port
from tests.support.docker.paced import PacedCalls
from tests.support.docker.remote import Certificates
from tests.support.eventually import eventually, eventually_sync

T4 = "nvidia.com/gpu-t4"
_GRACE_SECONDS = 3
_FAR = "far"

pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True)
class Rig:
    """A platform with a node that is reached over the network, and what that node is."""

    platform: DockerPlatform
    far: Engine

    @contextmanager
    def packets_vanish(self) -> Iterator[None]:
        """Let no packet of the node's arrive here, neither its engine's nor its containers'."""
        rule = ["INPUT", "-s", self.far.subnet, "-j", "DROP"]
        subprocess.run(["iptables", "-w", "-I", *rule], check=True)
        try:
            yield
        finally:
            subprocess.run(["iptables", "-w", "-D", *rule], check=True)


@pytest.fixture
def rig(docker: Docker, tmp_path: Path) -> Iterator[Rig]:
    address, port = docker.machine.next_address(), free_port()
    certificates = Certificates(tmp_path / "certificates", address)
    engine = docker.machine.add(options=certificates.engine_options(port))
    two = [("0", T4), ("1", T4)]
    nodes = {0: NodeOptions(gpus=two), 1: NodeOptions(gpus=two)}
    with docker_platform(
        docker, tmp_path, nodes=nodes, count=2, arguments=(f"--node-grace={_GRACE_SECONDS}s",)
    ) as made:
        made.client.nodes.declare(
            {
                "name": _FAR,
                "engine": f"tcp://{address}:{port}",
                "tls": certificates.declared(),
                "gpus": [{"id": id_, "hardwareType": kind} for id_, kind in two],
            }
        )
        made.engines[_FAR] = engine
        eventually_sync(
            lambda: made.client.nodes.get(_FAR).state == "Ready", "the node is ready", timeout=60
        )
        yield Rig(made, engine)
        made.end_all()
        eventually_sync(lambda: made.left() == {}, "nothing is left")
        eventually_sync(lambda: made.leases() == set(), "no GPU is taken")
        made.client.nodes.withdraw(_FAR)


async def test_a_node_whose_packets_vanish_is_unreachable_and_calls_go_on_elsewhere(
    rig: Rig,
) -> None:
    running = rig.platform
    service = running.service(serving={"readiness_path": "/ready", "stop_grace": 0})
    session = running.session(service, gpu=T4, replicas=3)
    await eventually(lambda: running.full(session), "all are ready", timeout=60)
    async with (
        running.platform.async_client() as client,
        client.inferencesessions.client(
            session, await client.inferencesessions.token(session), endpoint="echo"
        ) as calls,
        PacedCalls(calls, timeout=15) as traffic,
    ):
        before = await replicas(client, session)
        there = {one.id for one in before if one.node == _FAR and one.phase == "Ready"}
        assert there, before
        held = {lease for lease in running.leases() if lease[0] == _FAR}
        with rig.packets_vanish():
            # Calls go on before anybody knows: what hangs is not chosen again.
            await traffic.more(50)
            await eventually(lambda: state_of(client, "Unreachable"), "it is known", timeout=60)
            assert "did not answer" in (await client.nodes.get(_FAR)).message

            async def elsewhere() -> bool:
                now = await replicas(client, session)
                lost = {one.id for one in now if one.reason == "NODE_LOST"}
                others = [one for one in now if one.phase == "Ready" and one.node != _FAR]
                return there <= lost and len(others) == 3

            await eventually(elsewhere, "others take their place", timeout=60)
            # What it has is not given out.
            assert {lease for lease in running.leases() if lease[0] == _FAR} == held
            await traffic.more(50)
        await eventually(lambda: state_of(client, "Ready"), "it is back", timeout=60)
        await eventually(
            lambda: asyncio.to_thread(lambda: running.docker.left(rig.far) == {}),
            "what was left on it is removed",
            timeout=60,
        )
        await eventually(
            lambda: not any(lease[0] == _FAR for lease in running.leases()), "its GPUs are free"
        )
        await traffic.more(50)
        assert (await client.inferencesessions.status(session)).ready_replicas == 3
    # Only those that were on their way to it, or were sent there before one of them hung.
    print(f"{traffic.succeeded} calls went well; others: {dict(traffic.reasons())}")
    assert set(traffic.reasons()) <= {"DEADLINE_EXCEEDED", "REPLICA_CONNECTION_LOST"}
    assert len(traffic.failures) <= 5 * len(there), [str(failure) for failure in traffic.failures]


async def replicas(client: AsyncClient, session: str) -> list[ReplicaStatus]:
    return list((await client.inferencesessions.status(session)).replicas)


async def state_of(client: AsyncClient, state: str) -> bool:
    return (await client.nodes.get(_FAR)).state == state
