"""Session managers as processes that share a database, and looks into what they wrote."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from podbay.v1.session_manager_service_pb2_grpc import SessionManagerServiceStub
from tests.support.fake_registry import FakeRegistry
from tests.support.session_manager import SERVICE_TOKEN, Rig, until

__all__ = ["Member", "rows"]

SERVICE = "podbay.v1.SessionManagerService"


class Member(Rig):
    """One of several session managers, as a process."""

    def __init__(self, name: str, registry: FakeRegistry, endpoint: str, data_dir: Path) -> None:
        super().__init__(registry, endpoint, data_dir)
        self.name = name
        self.address = ""
        self.channel: Any = None
        self.process: asyncio.subprocess.Process

    async def launch(self, *options: str, lease: float = 3.0) -> Member:
        """Start it, and return when it listens."""
        folder = self.settings.data_dir
        folder.mkdir(parents=True, exist_ok=True)
        token, address = folder / "token", folder / f"{self.name}.json"
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
            *("--lease-seconds", str(lease)),
            *options,
        )
        await until(address.exists, 120)
        self.address = json.loads(address.read_text())["address"]
        self.channel = grpc.aio.insecure_channel(self.address)
        self.stub = SessionManagerServiceStub(self.channel)
        return self

    async def leads(self, service: str = SERVICE) -> bool:
        """Say whether it tells that it takes calls."""
        health: Any = health_pb2_grpc.HealthStub(self.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def pause(self) -> None:
        """Stop the process as it is, but not within a transaction: SQLite would keep its lock."""
        while True:
            self.process.send_signal(signal.SIGSTOP)
            if await asyncio.to_thread(_is_free, self.settings.data_dir):
                return
            self.process.send_signal(signal.SIGCONT)

    def resume(self) -> None:
        """Let a stopped process go on."""
        self.process.send_signal(signal.SIGCONT)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        if self.channel is not None:
            await self.channel.close()
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 60)


def _connect(data_dir: Path) -> sqlite3.Connection:
    return sqlite3.connect(data_dir / "session-manager.sqlite3", timeout=0.5, isolation_level=None)


def _is_free(data_dir: Path) -> bool:
    """Say whether nobody is in the middle of writing."""
    connection = _connect(data_dir)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()
    return True


def rows(data_dir: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return all that is in the database, but for the leader's signs of life."""
    connection = _connect(data_dir)
    try:
        names = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        found = {
            name: sorted(connection.execute(f'SELECT * FROM "{name}"'), key=repr) for name in names
        }
        found["leadership"] = connection.execute("SELECT term, holder FROM leadership").fetchall()
        return found
    finally:
        connection.close()
