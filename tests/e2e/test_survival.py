"""Each part is killed with -9 under traffic: only what was in flight in it may fail."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from podbay.local import mocks
from tests.support.eventually import eventually
from tests.support.platform import Platform
from tests.support.survivors import CALLERS, eventually_full, processes, running

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def platform(tmp_path: Path):
    """A platform of the test's own: it is about to be hurt."""
    with Platform(tmp_path / "data", ("--workers=2",)) as platform:
        yield platform


async def test_a_replica(platform: Platform):
    async with running(platform) as (client, session_id, traffic):
        before = await processes(client, session_id)
        psutil.Process(before[0]).kill()
        await traffic.more(500)
        await eventually_full(client, session_id, 2)
        after = await processes(client, session_id)
        assert after[1] == before[1]
        assert after[0] != before[0]
        await traffic.more(500)
    assert set(traffic.reasons()) <= {"REPLICA_CONNECTION_LOST"}
    assert len(traffic.failures) <= CALLERS


async def test_a_router_worker(platform: Platform):
    async with running(platform) as (_, _, traffic):
        workers = platform.service("inference-router").children()
        assert len(workers) == 2
        for worker in workers:
            worker.kill()
            await traffic.more(500)
        await eventually(
            lambda: (
                len(platform.service("inference-router").children()) == 2
                and not set(platform.service("inference-router").children()) & set(workers)
            ),
            "both workers are replaced",
        )
        await traffic.more(500)
    assert set(traffic.reasons()) <= {"CONNECTION_LOST"}
    assert len(traffic.failures) <= 2 * CALLERS
    for failure in traffic.failures:
        assert "in flight" in str(failure)


async def test_the_router_itself(platform: Platform):
    async with running(platform) as (_, _, traffic):
        killed = platform.service("inference-router")
        killed.kill()
        await eventually(
            lambda: router_of(platform) not in {None, killed.pid}, "the router is started again"
        )
        await traffic.more(500)
    assert set(traffic.reasons()) <= {"CONNECTION_LOST"}
    assert len(traffic.failures) <= CALLERS


def router_of(platform: Platform) -> int | None:
    return next(r["pid"] for r in platform.record()["services"] if r["name"] == "inference-router")


async def test_the_session_manager(platform: Platform):
    async with running(platform) as (client, session_id, traffic):
        before = await processes(client, session_id)
        killed = platform.service("session-manager")
        killed.kill()
        await traffic.more(500)
        # The client waits for the restart by itself.
        await eventually_full(client, session_id, 2)
        assert platform.service("session-manager").pid != killed.pid
        assert await processes(client, session_id) == before
        await traffic.more(500)
        service_id = (await client.inferencesessions.get(session_id)).inferenceService.id
        account = (await client.installation()).account
        another = await client.inferencesessions.create(
            {"account": account, "inferenceService": service_id}
        )
        await client.inferencesessions.wait_ready(another.inferencesession.id, timeout=60)
    assert traffic.failures == []


async def test_the_session_manager_while_sessions_start_and_end(platform: Platform):
    async with running(platform, replicas=1) as (client, session_id, traffic):
        account = (await client.installation()).account
        service_id = (await client.inferencesessions.get(session_id)).inferenceService.id
        ids = []
        for _ in range(5):
            made = await client.inferencesessions.create(
                {"account": account, "inferenceService": service_id, "replicas": 2}
            )
            ids.append(made.inferencesession.id)
        for ended in ids[:2]:
            await client.inferencesessions.terminate(ended)
        platform.service("session-manager").kill()
        for live in ids[2:]:
            await eventually_full(client, live, 2)

        def exactly_the_desired() -> bool:
            servers = {p.environ()["PODBAY_SESSION_ID"]: 0 for p in platform.replica_processes()}
            return set(servers) == {session_id, *ids[2:]}

        await eventually(exactly_the_desired, "nothing runs but what should", timeout=60)
    assert traffic.failures == []


async def test_the_registry(platform: Platform):
    async with running(platform) as (client, session_id, traffic):
        service_id = (await client.inferencesessions.get(session_id)).inferenceService.id
        killed = platform.service("registry")
        killed.kill()
        await traffic.more(500)
        service = await client.inferenceservices.get(service_id)
        assert service.id == service_id
        assert platform.service("registry").pid != killed.pid
    assert traffic.failures == []


async def test_calls_go_on_while_the_router_is_alone(platform: Platform):
    async with running(platform) as (client, session_id, traffic):
        others = [platform.service("session-manager"), platform.service("registry")]
        for service in others:
            service.send_signal(signal.SIGSTOP)
        try:
            await traffic.more(2000)
        finally:
            for service in others:
                service.send_signal(signal.SIGCONT)
        await eventually_full(client, session_id, 2)
    assert traffic.failures == []


def test_a_second_start_finds_everything_again(tmp_path: Path):
    platform = Platform(tmp_path / "data", ("--workers=1",))
    with platform, platform.client() as client:
        account = client.installation().account
        service = client.inferenceservices.create_mock(mocks.Echo, account=account)
        made = client.inferencesessions.create({"account": account, "inferenceService": service.id})
        client.inferencesessions.wait_ready(made.inferencesession.id, timeout=60)
    with platform, platform.client() as client:
        assert client.inferenceservices.get(service.id) == service
        client.inferencesessions.wait_ready(made.inferencesession.id, timeout=60)
        with client.inferencesessions.client(
            made.inferencesession.id, made.token, interface=service.interface
        ) as calls:
            assert calls.infer({"again": True}) == [{"again": True}]
