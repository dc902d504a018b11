"""Nodes for tests: engines in memory that outlive session managers, and what declares them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from podbay_session_manager.declared_nodes import DeclaredNode
from podbay_session_manager.drivers.contract import NodeFacts
from podbay_session_manager.drivers.fake import Behaviour, FakeDriver, FakeEngine

T4, A100 = "nvidia.com/gpu-t4", "nvidia.com/gpu-a100"


class FakeNodes:
    """Makes the drivers of declared nodes; what runs at an engine stays when a driver goes."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.engines: dict[str, FakeEngine] = {}
        self.drivers: dict[str, FakeDriver] = {}
        self.cut_off: set[str] = set()
        self.silent: set[str] = set()
        self.failed_gpus: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.behaviours: dict[str, Behaviour] = {}
        self.same: dict[str, str] = {}
        """Addresses at which the engine of another address is reached."""

    def make(self, node: DeclaredNode) -> FakeDriver:
        """Make the driver of a node; the engine's address says which engine it is."""
        address = self.same.get(node.engine, node.engine)
        engine = self.engines.setdefault(address, FakeEngine(port=self._port))
        driver = FakeDriver(
            time.monotonic,
            engine=engine,
            facts=NodeFacts(
                node.name, "127.0.0.1", 8, 64 << 30, self.warnings, self.failed_gpus, address
            ),
            behaviours=self.behaviours,
            kind="docker",
        )
        driver.unreachable = node.name in self.cut_off
        if node.name in self.silent:
            driver.answers.clear()
        self.drivers[node.name] = driver
        return driver

    def cut(self, name: str, *, off: bool) -> None:
        """Put a node out of reach, or back."""
        (self.cut_off.add if off else self.cut_off.discard)(name)
        self.drivers[name].unreachable = off
        self.drivers[name].changed.set()

    def silence(self, name: str, *, silent: bool) -> None:
        """Let a node owe its answers, or give them."""
        answers = self.drivers[name].answers
        if silent:
            self.silent.add(name)
            answers.clear()
        else:
            self.silent.discard(name)
            answers.set()

    def running(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """Return what runs: the engine's address, the replica, and its GPUs."""
        return [
            (address, replica_id, fake.gpus)
            for address, engine in self.engines.items()
            for replica_id, fake in engine.replicas.items()
            if fake.seen.running
        ]


@asynccontextmanager
async def always_ready() -> AsyncIterator[int]:
    """Serve 200 to everything, and give the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def declaration(name: str, *types: str, **more: Any) -> dict[str, Any]:
    """Return the JSON form of a node with GPUs of these types."""
    gpus = [{"id": f"{n}", "hardwareType": kind} for n, kind in enumerate(types)]
    return {"name": name, "engine": f"unix:///run/{name}.sock", "gpus": gpus, **more}
