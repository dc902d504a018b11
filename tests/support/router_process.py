"""A router that was started from its command line, and a client's installation around it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import grpc
import psutil

from podbay.v1 import inference_router_service_pb2 as pb
from podbay.v1 import registry_service_pb2 as registry
from podbay.v1.inference_router_service_pb2_grpc import InferenceRouterServiceStub
from tests.support.eventually import eventually
from tests.support.fake_services import FakeService
from tests.support.router_fakes import SERVICE_TOKEN, FakeSessionManager
from tests.support.rpc import details_of

__all__ = ["RouterProcess", "free_port", "gone", "registry_of"]


class SomeManager(Protocol):
    """What a router's test needs of its session manager."""

    @property
    def address(self) -> str:
        """Where it is."""
        ...

    def token(self, session_id: str) -> str:
        """Return a token for a session."""
        ...


class RouterProcess:
    """A router that was started from its command line."""

    def __init__(self, folder: Path, manager: SomeManager) -> None:
        self._folder = folder
        self._manager = manager
        self._channels: list[grpc.aio.Channel] = []
        self.process: asyncio.subprocess.Process
        self.address = ""

    async def start(
        self,
        *options: str,
        listen: str = "127.0.0.1:0",
        wait: bool = True,
        files: int | None = None,
        launcher: Sequence[str] = (),
    ) -> None:
        """Start it; `files` is the most files that it may have open, `launcher` what runs it."""
        secret = self._folder / "token"
        secret.write_text(SERVICE_TOKEN)
        secret.chmod(0o600)
        address_file = self._folder / "address.json"
        self.process = await asyncio.create_subprocess_exec(
            *launcher,
            sys.executable,
            "-m",
            "podbay_inference_router",
            *("--listen", listen),
            *("--data-dir", str(self._folder)),
            *("--service-token-file", str(secret)),
            *("--session-manager-endpoint", self._manager.address),
            *("--address-file", str(address_file)),
            *options,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            preexec_fn=None
            if files is None
            else lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
        )
        if wait:
            await eventually(
                lambda: address_file.exists() or self.process.returncode is not None,
                "the router tells its address",
            )
            if not address_file.exists():
                assert self.process.stderr is not None
                raise AssertionError((await self.process.stderr.read()).decode())
            self.address = json.loads(address_file.read_text())["address"]

    @property
    def workers(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children()
        return []

    def stub(self) -> Any:
        """Return a stub with a connection of its own."""
        channel = grpc.aio.insecure_channel(
            self.address, options=[("test.number", len(self._channels))]
        )
        self._channels.append(channel)
        return InferenceRouterServiceStub(channel)

    async def infer(self, stub: Any, session: str = "s") -> pb.InferResponse:
        response: pb.InferResponse = await stub.Infer(
            pb.InferRequest(session_id=session, endpoint="x", json=b"{}"),
            metadata=[("authorization", f"Bearer {self._manager.token(session)}")],
            timeout=20,
            wait_for_ready=True,
        )
        return response

    async def served(self) -> None:
        """Wait until a call is answered."""

        async def answered() -> bool:
            try:
                await self.infer(self.stub())
            except grpc.aio.AioRpcError as error:
                assert details_of(error)[0].reason == "ROUTER_NOT_SYNCED", error
                return False
            return True

        await eventually(answered, "a call is answered")

    async def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        async with asyncio.timeout(30):
            return await self.process.wait()

    async def stop(self) -> None:
        for channel in self._channels:
            await channel.close()
        family = self.workers
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        for worker in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        _, errors = await self.process.communicate()
        print(errors.decode())  # shown where the test failed


def gone(pid: int) -> bool:
    """Say whether a process has ended."""
    # It may be reaped between any two looks.
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def free_port() -> int:
    """Return a port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def registry_of(router: RouterProcess, manager: FakeSessionManager) -> FakeService:
    """Return a registry that leads clients to a router."""
    made = FakeService(registry.DESCRIPTOR.services_by_name["RegistryService"])
    made.handlers["GetInstallation"] = lambda _request, _context: registry.GetInstallationResponse(
        installation_id="i",
        version="1",
        session_manager_endpoint=manager.address,
        inference_router_endpoint=router.address,
        account="acct",
    )
    return made
