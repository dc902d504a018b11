"""The session manager as a process that is killed and asked to end."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import grpc

from podbay.v1.session_manager_service_pb2_grpc import SessionManagerServiceStub
from podbay_session_manager.drivers.process_tree import identity
from tests.support.fake_registry import fake_registry
from tests.support.session_manager import SERVICE_TOKEN, Rig, until


class ManagerProcess(Rig):
    """The session manager as a process of its own."""

    async def launch(self, *options: str) -> None:
        folder = self.settings.data_dir
        folder.mkdir(parents=True, exist_ok=True)
        token, address = folder / "token", folder / "address.json"
        token.write_text(SERVICE_TOKEN)
        token.chmod(0o600)
        address.unlink(missing_ok=True)
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "podbay_session_manager"),
            *("--listen", "127.0.0.1:0"),
            *("--data-dir", str(folder)),
            *("--service-token-file", str(token)),
            *("--address-file", str(address)),
            *("--registry-endpoint", self.settings.registry_endpoint),
            *("--drivers", "process", "--drain-seconds", "1"),
            *options,
        )
        await until(address.exists)
        target = json.loads(address.read_text())["address"]
        self.channel = grpc.aio.insecure_channel(target)
        self.stub = SessionManagerServiceStub(self.channel)

    async def end(self, number: signal.Signals) -> int:
        await self.channel.close()
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 60)


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
