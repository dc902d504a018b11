"""A session manager as a process of its own, for tests."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import grpc

from podbay.v1.session_manager_service_pb2_grpc import SessionManagerServiceStub
from tests.support.session_manager import SERVICE_TOKEN, Rig, until

__all__ = ["ManagerProcess"]


class ManagerProcess(Rig):
    """The session manager as a process of its own."""

    async def launch(self, *options: str) -> None:
        """Start it, and return when it listens."""
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
        """Send it a signal, and return its exit code."""
        await self.channel.close()
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 60)
