"""A session with traffic on it, for tests that hurt the platform below."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from podbay import AsyncClient
from podbay.local import mocks
from tests.support.eventually import eventually
from tests.support.platform import Platform
from tests.support.traffic import Traffic

__all__ = ["CALLERS", "eventually_full", "processes", "running"]

CALLERS = 8


@asynccontextmanager
async def running(
    platform: Platform, replicas: int = 2
) -> AsyncIterator[tuple[AsyncClient, str, Traffic]]:
    """Yield a client, a session's id and traffic on it."""
    async with platform.async_client() as client:
        account = (await client.installation()).account
        service = await client.inferenceservices.create_mock(mocks.Echo, account=account)
        made = await client.inferencesessions.create(
            {"account": account, "inferenceService": service.id, "replicas": replicas}
        )
        session_id = made.inferencesession.id
        await eventually_full(client, session_id, replicas)
        async with (
            client.inferencesessions.client(
                session_id, made.token, interface=service.interface
            ) as session,
            Traffic(session, CALLERS) as traffic,
        ):
            yield client, session_id, traffic


async def eventually_full(client: AsyncClient, session_id: str, replicas: int) -> None:
    """Wait until so many replicas of a session are ready."""

    async def full() -> bool:
        status = await client.inferencesessions.status(session_id)
        return status.ready_replicas == replicas

    await eventually(full, f"{replicas} replicas are ready", timeout=60)


async def processes(client: AsyncClient, session_id: str) -> dict[int, int]:
    """Return process ids of ready replicas by index."""
    status = await client.inferencesessions.status(session_id)
    return {
        replica.index: replica.process_id
        for replica in status.replicas
        if replica.phase == "Ready" and replica.process_id is not None
    }
