"""A session manager that is killed at random points, with real processes on declared nodes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from podbay.v1 import common_pb2, inference_session_pb2
from podbay.v1 import session_manager_service_pb2 as pb
from podbay.v1.session_manager_service_pb2_grpc import SessionManagerServiceStub
from podbay_kit.storage import Database, sqlite_url
from podbay_session_manager.node_store import NodeStore
from podbay_session_manager.records import REPLICA_VARIABLE
from tests.support.fake_registry import fake_registry
from tests.support.node_manager import GPU_TYPE
from tests.support.session_manager import Rig, until

KILLS = 20
TOP = inference_session_pb2
MARK = "_NODES_TEST_MARK"
SERVER = (
    "import http.server, os\n"
    "class H(http.server.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        self.send_response(200)\n"
    "        self.send_header('content-length', '0')\n"
    "        self.end_headers()\n"
    "    def log_message(self, *_): pass\n"
    "http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()\n"
)


class Managed(Rig):
    """A session manager as a process, with two nodes of two GPUs."""

    mark = ""

    async def launch(self, *, stop_replicas: bool = False) -> None:
        folder = self.settings.data_dir
        folder.mkdir(parents=True, exist_ok=True)
        address = folder / "address.json"
        address.unlink(missing_ok=True)
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.support.node_manager", str(folder), self.settings.registry_endpoint),
            env={**os.environ, MARK: self.mark, "STOP_REPLICAS": "1" if stop_replicas else "0"},
        )
        await until(address.exists)
        target = json.loads(address.read_text())["address"]
        self.channel = grpc.aio.insecure_channel(target)
        self.stub = SessionManagerServiceStub(self.channel)

    async def end(self, number: signal.Signals) -> None:
        await self.channel.close()
        if self.process.returncode is None:
            self.process.send_signal(number)
        await asyncio.wait_for(self.process.wait(), 60)

    async def leases(self) -> dict[tuple[str, str], str]:
        database = Database(sqlite_url(self.settings.data_dir / "session-manager.sqlite3"))
        try:
            return await NodeStore(database).leases()
        finally:
            await database.close()

    def running(self) -> set[str]:
        """Return the replicas that have a process, whoever knows of it."""
        found = set()
        for process in psutil.process_iter():
            try:
                environment = process.environ()
            except psutil.Error:
                continue
            if environment.get(MARK) == self.mark and REPLICA_VARIABLE in environment:
                found.add(environment[REPLICA_VARIABLE])
        return found

    async def settled(self, sessions: list[str]) -> Any:
        """Return the ready replicas once every session has what it can get."""
        ready: list[Any] = []
        waiting = 0
        for session_id in sessions:
            status = await self.status(session_id)
            assert status.status.status in {"Created", "Admitted"}, status
            for replica in status.replicas:
                if replica.phase == TOP.REPLICA_PHASE_READY:
                    ready.append(replica)
                elif replica.phase == TOP.REPLICA_PHASE_PENDING and replica.reason:
                    waiting += 1
                elif replica.phase not in {
                    TOP.REPLICA_PHASE_STOPPED,
                    TOP.REPLICA_PHASE_FAILED,
                }:
                    return None
        whole = len(ready) + waiting == len(sessions)
        same = {replica.id for replica in ready} == self.running()
        leased = {(r.node, gpu): r.id for r in ready for gpu in r.gpus}
        return [ready] if whole and same and await self.leases() == leased else None


@pytest.mark.timeout(600)
async def test_killed_at_random_points_it_goes_on_with_exactly_what_is_wanted(
    tmp_path: Path,
) -> None:
    chance = random.Random(20_240_607)
    async with fake_registry() as (registry, endpoint):
        manager = Managed(registry, endpoint, tmp_path / "data")
        manager.mark = uuid.uuid4().hex
        service = registry.add(
            kind="container",
            image={"host": "h", "name": "n", "digest": f"sha256:{'0' * 64}"},
            command=[sys.executable, "-S", "-c", SERVER],
        )
        sessions: list[str] = []
        points: list[str] = []
        await manager.launch()
        try:
            for _ in range(KILLS):
                doing = asyncio.create_task(_command(manager, service, sessions, chance))
                await asyncio.sleep(chance.uniform(0.0, 0.35))
                await manager.end(signal.SIGKILL)
                points.append(await doing)
                await manager.launch()
                await _forget_the_uncreated(manager, sessions)
                await until(lambda: manager.settled(sessions), 60)
            for session_id in sessions:
                await manager.terminate(session_id)
            sessions.clear()
            await until(lambda: manager.settled(sessions), 60)
            assert not manager.running()
            assert await manager.leases() == {}
        finally:
            await manager.end(signal.SIGKILL)
            await manager.launch(stop_replicas=True)
            await manager.end(signal.SIGTERM)
        assert {"create", "terminate"} <= set(points)


async def _command(manager: Managed, service: str, sessions: list[str], chance: Any) -> str:
    """Create or end a session; the session manager may die of it."""
    try:
        if len(sessions) < 5 and (not sessions or chance.random() < 0.6):
            gpu = common_pb2.AcceleratorGPU(
                hardware_types=[GPU_TYPE], count=chance.choice([1, 1, 2])
            )
            made = await manager.create(
                service, accelerator=common_pb2.Accelerator(kind="GPU", gpu=gpu)
            )
            sessions.append(made.inferencesession.id)
            return "create"
        victim = sessions[0]
        await manager.call(
            "TerminateInferenceSession", pb.TerminateInferenceSessionRequest(id=victim)
        )
        sessions.remove(victim)
    except (grpc.aio.AioRpcError, asyncio.CancelledError, grpc.aio.UsageError):
        return "cut off"
    return "terminate"


async def _forget_the_uncreated(manager: Managed, sessions: list[str]) -> None:
    """Take over what the store says: a command may have been carried out and not answered."""
    listed = await manager.call("ListInferenceSessions", pb.ListInferenceSessionsRequest())
    sessions[:] = [
        session.id
        for session in listed.inference_sessions
        if session.status in {"Created", "Admitted"}
    ]
