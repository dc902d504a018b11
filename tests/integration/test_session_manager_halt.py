"""A session manager whose replicas end with it leaves none, whatever is on its way."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from podbay.schema import convert
from podbay.schema.nodes import NodeDeclaration
from podbay.v1 import session_manager_service_pb2 as pb
from podbay_session_manager import observer, reconciler
from podbay_session_manager.drivers.process_tree import identity
from podbay_session_manager.policy import Policy
from podbay_session_manager.server import serving
from tests.support.fake_node_rig import FakeNodeRig, fake_node_rig
from tests.support.fake_nodes import declaration
from tests.support.fake_registry import fake_registry
from tests.support.manager_process import ManagerProcess
from tests.support.session_manager import Rig

SEED = 20260727


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with fake_registry() as (registry, endpoint):
        yield Rig(registry, endpoint, tmp_path / "data")


class NodeRig(FakeNodeRig):
    """A session manager with one node."""

    async def begin(self) -> str:
        """Declare the node, and return a session of one replica on it."""
        await self.start(stop_replicas_on_exit=True)
        node = convert.to_proto(NodeDeclaration.model_validate(declaration("n1")))
        await self.call("DeclareNode", pb.DeclareNodeRequest(node=node))
        image = {"host": "h.example", "name": "n", "digest": f"sha256:{'0' * 64}"}
        made = await self.create(self.registry.add(kind="container", image=image))
        await self.ready(made.inferencesession.id)
        return str(made.inferencesession.id)


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[NodeRig]:
    async with fake_node_rig(NodeRig, tmp_path, Policy(drain=0.1)) as rig:
        yield rig


def processes_of(session_id: str) -> list[int]:
    """Return the processes of a session's replicas, whoever knows of them."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue  # gone, or of another user
        if environment.get("PODBAY_SESSION_ID") == session_id and identity(process.pid):
            found.append(process.pid)
    return found


async def test_what_is_still_looked_for_is_waited_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.start()
    made = await rig.create(rig.registry.add())
    (replica,) = (await rig.ready(made.inferencesession.id)).replicas
    await rig.stop()
    # No driver answers within the first pass, as on a machine that has much else to do.
    monkeypatch.setattr(observer, "_PATIENCE_SECONDS", 0.0)
    await rig.start(stop_replicas_on_exit=True)
    await rig.stop()
    assert identity(replica.process_id) is None
    assert processes_of(made.inferencesession.id) == []


async def test_whatever_is_on_its_way_ends(rig: Rig) -> None:
    chance = random.Random(SEED)
    for _ in range(6):
        await rig.start(stop_replicas_on_exit=True)
        made = await rig.create(rig.registry.add(), replicas=2)
        pause = chance.uniform(0.0, 0.5)
        await asyncio.sleep(pause)
        await rig.stop()
        assert processes_of(made.inferencesession.id) == [], f"after {pause} s"


async def test_a_replica_that_a_killed_one_was_starting_ends(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    async with fake_registry() as (registry, endpoint):
        for turn in range(3):
            manager = ManagerProcess(registry, endpoint, tmp_path / f"data-{turn}")
            await manager.launch()
            made = await manager.create(registry.add(), replicas=2)
            pause = chance.uniform(0.0, 0.1)
            await asyncio.sleep(pause)
            await manager.end(signal.SIGKILL)
            await manager.launch("--stop-replicas-on-exit")
            assert await manager.end(signal.SIGTERM) == 0
            assert processes_of(made.inferencesession.id) == [], f"after {pause} s"


async def test_a_failure_of_the_one_that_serves_ends_replicas_too(rig: Rig) -> None:
    await rig.start()
    made = await rig.create(rig.registry.add())
    await rig.ready(made.inferencesession.id)
    await rig.stop()
    with pytest.raises(OSError, match="no room"):
        async with serving(replace(rig.settings, stop_replicas_on_exit=True)):
            raise OSError("no room for the address file")
    assert processes_of(made.inferencesession.id) == []


async def test_a_node_that_comes_back_at_once_is_waited_for(nodes: NodeRig) -> None:
    await nodes.begin()
    nodes.nodes.cut("n1", off=True)
    stopping = asyncio.create_task(nodes.stop())
    await asyncio.sleep(0.2)
    assert not stopping.done()
    nodes.nodes.cut("n1", off=False)
    await stopping
    assert nodes.nodes.running() == []


async def test_a_node_that_stays_away_is_left_and_told_of(
    nodes: NodeRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session_id = await nodes.begin()
    monkeypatch.setattr(reconciler, "_REACH_SECONDS", 0.1)
    nodes.nodes.cut("n1", off=True)
    with caplog.at_level(logging.WARNING):
        await nodes.stop()
    assert "what runs by the driver docker/n1 is left: " in caplog.text
    assert len(nodes.nodes.running()) == 1
    nodes.nodes.cut_off.clear()
    await nodes.start(stop_replicas_on_exit=True)
    status: Any = await nodes.status(session_id)
    assert status.status.status == "Admitted"
    await nodes.stop()
    assert nodes.nodes.running() == []
