"""A revoked API token ends at the session manager, too, and within a bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from podbay.v1 import registry_service_pb2 as registry_pb
from podbay.v1 import session_manager_service_pb2 as pb
from podbay.v1.session_manager_service_pb2_grpc import SessionManagerServiceStub
from podbay_session_manager.server import Settings, serving
from tests.support.model_files import chunks_of, header_of, offer, uploaded_model
from tests.support.registry import SERVICE_TOKEN, Registry, running_registry
from tests.support.rpc import details_of

# What the session manager takes for granted without asking again.
BELIEVED_SECONDS = 2.0


class Both:
    """A registry and a session manager."""

    def __init__(self, registry: Registry, manager: Any) -> None:
        self.registry = registry
        self.manager = manager

    async def reason(self, token: str) -> str:
        """Ask the session manager for something; return why it refused, or ""."""
        try:
            await self.manager.ListInferenceSessions(
                pb.ListInferenceSessionsRequest(),
                metadata=(("authorization", f"Bearer {token}"),),
                timeout=30,
            )
        except grpc.aio.AioRpcError as error:
            return details_of(error)[0].reason
        return ""


async def read_to_the_end(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    async with running_registry(tmp_path) as registry:
        settings = Settings(
            listen="127.0.0.1:0",
            data_dir=tmp_path / "manager",
            service_token=SERVICE_TOKEN,
            registry_endpoint=f"127.0.0.1:{registry.port}",
            drain_seconds=1.0,
        )
        async with (
            serving(settings) as port,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            yield Both(registry, SessionManagerServiceStub(channel))


async def test_a_revoked_token_ends_within_its_bound_and_its_streams_too(both: Both) -> None:
    secret = await both.registry.account("acme")
    assert await both.reason(secret) == ""
    watch = both.manager.WatchInferenceSessions(
        pb.WatchInferenceSessionsRequest(), metadata=(("authorization", f"Bearer {secret}"),)
    )
    assert (await watch.read()).revision >= 0
    stopped = asyncio.Event()
    begun: list[float] = []
    refused: list[tuple[float, str]] = []

    async def keep_asking() -> None:
        while not stopped.is_set():
            began = time.monotonic()
            reason = await both.reason(secret)
            if reason:
                refused.append((time.monotonic(), reason))
                stopped.set()
            else:
                begun.append(began)

    asking = [asyncio.ensure_future(keep_asking()) for _ in range(3)]
    while not begun:
        await asyncio.wait(asking, timeout=0.01)
    token_id = secret.partition(".")[0]
    await both.registry.call("RevokeApiToken", registry_pb.RevokeApiTokenRequest(id=token_id))
    answered = time.monotonic()
    async with asyncio.timeout(60):
        await asyncio.gather(*asking)
    assert {reason for _, reason in refused} == {"TOKEN_REVOKED"}
    # Every call that came through began within the bound, whatever it took on this machine.
    assert max(begun) - answered <= BELIEVED_SECONDS + 0.05
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(read_to_the_end(watch), 60)
    assert details_of(caught.value)[0].reason == "TOKEN_REVOKED"
    # At the registry it ends at once.
    call = both.registry.call("ListModels", registry_pb.ListModelsRequest(), token=secret)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert details_of(caught.value)[0].reason == "TOKEN_REVOKED"


async def test_an_upload_ends_with_its_token(tmp_path: Path) -> None:
    data = b"x" * 64
    async with running_registry(tmp_path) as registry:
        secret = await registry.account("acme")
        model = await uploaded_model(registry, {"a": data}, token=secret, account="acme")
        call = registry.stub.UploadModelFile(metadata=registry.metadata(secret))
        await call.write(header_of(model.id, "a", data))
        await call.write(chunks_of(data, size=32)[0])
        token_id = secret.partition(".")[0]
        await registry.call("RevokeApiToken", registry_pb.RevokeApiTokenRequest(id=token_id))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(call, 30)
        assert details_of(caught.value)[0].reason == "TOKEN_REVOKED"
        # What came is kept: whoever may go on begins there.
        assert await offer(registry, model.id, {"a": data}) == {"a": 32}
