"""Helpers for tests of the session manager."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import grpc

from podbay.v1 import inference_session_pb2
from podbay.v1 import session_manager_service_pb2 as pb
from podbay.v1.session_manager_service_pb2_grpc import SessionManagerServiceStub
from podbay_kit.clock import Clock
from podbay_kit.process import SettingsError
from podbay_session_manager.records import ServiceSpec
from podbay_session_manager.server import Settings, serving
from tests.support.fake_registry import ADMIN, FakeRegistry, fake_registry

T = TypeVar("T")


async def until(look: Callable[[], T | Awaitable[T | None] | None], seconds: float = 30.0) -> T:
    """Look again and again until something true comes back."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        found = look()
        value: Any = await found if inspect.isawaitable(found) else found
        if value:
            result: T = value
            return result
        if loop.time() > deadline:
            raise AssertionError(f"nothing came of it within {seconds} s")
        await asyncio.sleep(0.01)


def sh(script: str) -> ServiceSpec:
    """Return a service that runs a shell script."""
    return ServiceSpec(kind="mock", name="script", command=("/bin/sh", "-c", script))


SERVICE_TOKEN = "s" * 40


class Rig:
    """A session manager with a fake registry, and calls to it."""

    def __init__(self, registry: FakeRegistry, endpoint: str, data_dir: Path) -> None:
        self.registry = registry
        self.settings = Settings(
            listen="127.0.0.1:0",
            data_dir=data_dir,
            service_token=SERVICE_TOKEN,
            registry_endpoint=endpoint,
            drivers=("process",),
            drain_seconds=1.0,
        )
        self._stack = AsyncExitStack()
        self.port = 0

    async def start(self, *, clock: Clock | None = None, **changes: Any) -> None:
        """Start the session manager, with other settings, or another clock."""
        settings = replace(self.settings, **changes)
        self._stack = AsyncExitStack()
        self.port = await self._stack.enter_async_context(serving(settings, clock=clock))
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        self._stack.push_async_callback(channel.close)
        self.stub: Any = SessionManagerServiceStub(channel)

    async def stop(self) -> None:
        """Stop the session manager; replicas go on."""
        await self._stack.aclose()

    async def call(self, method: str, request: Any, token: str = ADMIN) -> Any:
        """Make a unary call."""
        metadata = (("authorization", f"Bearer {token}"),)
        return await getattr(self.stub, method)(request, metadata=metadata, timeout=30)

    def stream(self, method: str, request: Any, token: str = ADMIN) -> Any:
        """Begin a call that answers with a stream."""
        return getattr(self.stub, method)(request, metadata=(("authorization", f"Bearer {token}"),))

    async def create(self, service: str, *, request_id: str = "", **fields: Any) -> Any:
        """Create a session."""
        wanted = inference_session_pb2.InferenceSessionCreateRequest(
            account="acme", inference_service=service, **fields
        )
        request = pb.CreateInferenceSessionRequest(inference_session=wanted, request_id=request_id)
        return await self.call("CreateInferenceSession", request)

    async def status(self, session_id: str) -> inference_session_pb2.InferenceSessionStatus:
        """Return the status of a session."""
        request = pb.GetInferenceSessionStatusRequest(id=session_id)
        response: pb.GetInferenceSessionStatusResponse = await self.call(
            "GetInferenceSessionStatus", request
        )
        return response.status

    async def ready(
        self, session_id: str, replicas: int = 1
    ) -> inference_session_pb2.InferenceSessionStatus:
        """Wait until so many replicas are ready, and return the status."""

        async def look() -> inference_session_pb2.InferenceSessionStatus | None:
            status = await self.status(session_id)
            assert status.status.status in {"Created", "Admitted"}, status
            return status if status.ready_replicas >= replicas else None

        return await until(look)

    async def failed(self, session_id: str) -> inference_session_pb2.InferenceSessionStatus:
        """Wait until a session has failed, and return the status."""

        async def look() -> inference_session_pb2.InferenceSessionStatus | None:
            status = await self.status(session_id)
            return status if status.status.status == "Error" else None

        return await until(look)

    async def terminate(self, session_id: str) -> None:
        """Terminate a session, and wait until nothing of it is left."""
        await self.call(
            "TerminateInferenceSession", pb.TerminateInferenceSessionRequest(id=session_id)
        )
        async for _ in self.stream(
            "WatchInferenceSessionStatus", pb.WatchInferenceSessionStatusRequest(id=session_id)
        ):
            pass

    async def log(self, session_id: str, **fields: Any) -> list[str]:
        """Return the lines of a session's log."""
        request = pb.StreamInferenceSessionLogsRequest(id=session_id, **fields)
        return [
            line.text
            async for response in self.stream("StreamInferenceSessionLogs", request)
            for line in response.lines
        ]


@asynccontextmanager
async def session_manager(data_dir: Path, **changes: Any) -> AsyncIterator[Rig]:
    """Run a session manager; at the end no replica is left."""
    async with fake_registry() as (registry, endpoint):
        rig = Rig(registry, endpoint, data_dir)
        await rig.start(**changes)
        try:
            yield rig
        finally:
            await rig.stop()
            with contextlib.suppress(SettingsError):
                await rig.start(stop_replicas_on_exit=True)
                await rig.stop()
