"""The session manager as a process that is killed and asked to end."""

from __future__ import annotations

import signal
from pathlib import Path

from podbay_session_manager.drivers.process_tree import identity
from tests.support.fake_registry import fake_registry
from tests.support.manager_process import ManagerProcess


async def test_killed_and_started_again_it_goes_on(tmp_path: Path) -> None:
    async with fake_registry() as (registry, endpoint):
        manager = ManagerProcess(registry, endpoint, tmp_path / "data")
        await manager.launch()
        made = await manager.create(registry.add(), replicas=2)
        session_id = made.inferencesession.id
        before = await manager.ready(session_id, 2)
        # Killed with a replica on its way, too.
        other = await manager.create(registry.add())
        assert await manager.end(signal.SIGKILL) == -signal.SIGKILL
        await manager.launch("--stop-replicas-on-exit")
        after = await manager.ready(session_id, 2)
        assert {r.process_id for r in after.replicas} == {r.process_id for r in before.replicas}
        started = await manager.ready(other.inferencesession.id)
        assert await manager.end(signal.SIGTERM) == 0
        for replica in (*after.replicas, *started.replicas):
            assert identity(replica.process_id) is None
