"""Two session managers of `podbay up` on one PostgreSQL: the leader is paused, or killed."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from psycopg import sql

from podbay import AsyncClient
from podbay.v1 import session_manager_service_pb2 as pb
from podbay.v1.session_manager_service_pb2_grpc import SessionManagerServiceStub
from tests.support.eventually import eventually
from tests.support.platform import Platform
from tests.support.postgresql import PostgreSQL
from tests.support.rpc import details_of
from tests.support.survivors import CALLERS, eventually_full, processes, running

pytestmark = [pytest.mark.needs_postgresql, pytest.mark.timeout(300)]

SERVICE = "podbay.v1.SessionManagerService"
MANAGERS = ("session-manager", "session-manager-2")
TAKEOVER_SECONDS = 10.0
SCHEMA = "takeover"
MOCK = "podbay_kit.replica_server"


@pytest.fixture
def database(postgresql: PostgreSQL) -> Iterator[str]:
    """A database of the test's own, by its name."""
    name = postgresql.database()
    yield name
    postgresql.drop(name)


@pytest.fixture
def platform(postgresql: PostgreSQL, database: str, tmp_path: Path) -> Iterator[Platform]:
    """A platform with two session managers; what was paused goes on before its end."""
    platform = Platform(
        tmp_path / "data",
        ("--workers=1", "--session-managers=2", "--drivers=process"),
        {"PODBAY_DATABASE": postgresql.url(database, schema=SCHEMA)},
    )
    with platform:
        try:
            yield platform
        finally:
            for name in MANAGERS:
                platform.service(name).send_signal(signal.SIGCONT)


async def leads(platform: Platform, name: str) -> bool:
    """Ask a session manager whether it takes calls; one that is not there does not."""
    async with grpc.aio.insecure_channel(platform.endpoint(name)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=1)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def leader_and_follower(platform: Platform) -> tuple[str, str]:
    first, second = [await leads(platform, name) for name in MANAGERS]
    assert first != second
    return MANAGERS if first else (MANAGERS[1], MANAGERS[0])


def rows(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return all that the session managers keep, but for the leader's signs of life."""
    schema = f"{SCHEMA}_session_manager"
    with psycopg.connect(url) as connection:
        names = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = %s", [schema]
        ).fetchall()
        found = {}
        for (name,) in names:
            columns = sql.SQL("term, holder" if name == "leadership" else "*")
            query = sql.SQL("SELECT {} FROM {}").format(columns, sql.Identifier(schema, name))
            found[name] = sorted(connection.execute(query).fetchall(), key=repr)
        assert found["leadership"]
        assert found["replicas"]
        return found


async def another(client: AsyncClient, session_id: str) -> str:
    """Create a session as another one is, and return its id once it takes calls."""
    session = await client.inferencesessions.get(session_id)
    made = await client.inferencesessions.create(
        {"account": session.account, "inferenceService": session.inferenceService.id}
    )
    await client.inferencesessions.wait_ready(made.inferencesession.id, timeout=60)
    return made.inferencesession.id


def replicas(platform: Platform) -> dict[str, Counter[str]]:
    """Return how often each replica runs, by session."""
    found: dict[str, Counter[str]] = {}
    for process in platform.replica_processes():
        try:
            command, environment = process.cmdline(), process.environ()
        except psutil.NoSuchProcess:
            continue
        if command[1:3] != ["-m", MOCK]:
            continue  # the keeper of one
        counted = found.setdefault(environment["PODBAY_SESSION_ID"], Counter())
        counted[environment["PODBAY_REPLICA_ID"]] += 1
    return found


async def check_replicas(platform: Platform, expected: dict[str, int]) -> None:
    """Wait until each session has so many replicas; none ever runs twice."""

    def as_expected() -> bool:
        found = replicas(platform)
        assert {count for counted in found.values() for count in counted.values()} <= {1}, found
        return {session: len(counted) for session, counted in found.items()} == expected

    await eventually(as_expected, f"there are the replicas {expected}", timeout=60)


async def test_a_paused_leader_is_followed_and_changes_nothing_when_it_goes_on(
    platform: Platform, postgresql: PostgreSQL, database: str
) -> None:
    url = postgresql.url(database)
    async with running(platform) as (client, session_id, traffic):
        before = await processes(client, session_id)
        old, new = await leader_and_follower(platform)
        paused = platform.service(old)
        paused.send_signal(signal.SIGSTOP)
        paused_at = time.monotonic()
        # What it finds when it goes on: an order, and a replica that is gone.
        channel = grpc.aio.insecure_channel(platform.endpoint(old))
        stub: Any = SessionManagerServiceStub(channel)
        order = asyncio.ensure_future(
            stub.TerminateInferenceSession(
                pb.TerminateInferenceSessionRequest(id=session_id),
                metadata=[("authorization", f"Bearer {platform.token}")],
                timeout=120,
            )
        )
        psutil.Process(before[0]).kill()
        await eventually(lambda: leads(platform, new), "the other one leads")
        assert time.monotonic() - paused_at < TAKEOVER_SECONDS
        await traffic.more(500)
        await eventually_full(client, session_id, 2)
        second = await another(client, session_id)
        expected = {session_id: 2, second: 1}
        await check_replicas(platform, expected)
        after = await processes(client, session_id)
        assert after[1] == before[1]
        written = rows(url)
        assert written["leadership"][0][0] == 2
        paused.send_signal(signal.SIGCONT)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await order
        await channel.close()
        assert details_of(failure.value)[0].reason == "NOT_LEADER"

        async def stands_by() -> bool:
            return not await leads(platform, old)

        await eventually(stands_by, "the one that was paused stands by")
        assert "another session manager leads: standing by" in platform.log(old)
        assert rows(url) == written
        await traffic.more(500)
        await check_replicas(platform, expected)
        assert await processes(client, session_id) == after
        # It is the same process, and of use again.
        assert platform.service(old).pid == paused.pid
        platform.service(new).kill()
        await eventually(lambda: leads(platform, old), "it leads again")
        await client.inferencesessions.terminate(second)
        await check_replicas(platform, {session_id: 2})
    assert set(traffic.reasons()) <= {"REPLICA_CONNECTION_LOST"}
    assert len(traffic.failures) <= CALLERS


async def test_a_killed_leader_is_followed_and_no_call_notices(
    platform: Platform, postgresql: PostgreSQL, database: str
) -> None:
    async with running(platform) as (client, session_id, traffic):
        before = await processes(client, session_id)
        old, new = await leader_and_follower(platform)
        killed = platform.service(old)
        killed.kill()
        killed_at = time.monotonic()
        await eventually(lambda: leads(platform, new), "the other one leads")
        assert time.monotonic() - killed_at < TAKEOVER_SECONDS
        await traffic.more(500)
        second = await another(client, session_id)

        def back() -> bool:
            now = {item["name"]: item for item in platform.record()["services"]}[old]
            return now["state"] == "running" and now["restarts"] == 1

        await eventually(back, "the killed one stands by again", timeout=60)
        assert await leads(platform, new)
        assert not await leads(platform, old)
        assert rows(postgresql.url(database))["leadership"][0][0] == 2
        await traffic.more(500)
        assert await processes(client, session_id) == before
        await check_replicas(platform, {session_id: 2, second: 1})
    assert traffic.failures == []
