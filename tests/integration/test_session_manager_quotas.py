"""Quotas at the session manager: what waits, what is told, and what holds without a registry."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from podbay.v1 import audit_pb2, common_pb2, errors_pb2, inference_session_pb2
from podbay.v1 import session_manager_service_pb2 as pb
from podbay_session_manager.codec import read_replica, read_session
from podbay_session_manager.machine import ReplicaPhase
from podbay_session_manager.records import ReplicaRecord, SessionRecord
from tests.integration.test_session_manager_killed import SERVER, Managed
from tests.support.fake_registry import GUEST, OTHER, fake_registry
from tests.support.node_manager import GPU_TYPE
from tests.support.rpc import details_of
from tests.support.session_manager import SERVICE_TOKEN, Rig, session_manager, until

KILLS = 4
R = errors_pb2


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with session_manager(tmp_path / "data", drivers=("inprocess",)) as running:
        yield running


async def usage(rig: Rig, token: str = SERVICE_TOKEN) -> pb.GetAccountUsageResponse:
    request = pb.GetAccountUsageRequest(account="acme")
    answer: pb.GetAccountUsageResponse = await rig.call("GetAccountUsage", request, token)
    return answer


async def known(rig: Rig) -> None:
    """Wait until the quota is known as it was set last."""
    revision = rig.registry.quotas["acme"].revision

    async def look() -> bool:
        return (await usage(rig)).quota_revision == revision

    await until(look)


async def session(rig: Rig, **fields: Any) -> str:
    return str((await rig.create(rig.registry.add(), **fields)).inferencesession.id)


async def waits(rig: Rig, session_id: str) -> Any:
    """Wait until a session waits for the quota, and return its status."""

    async def look() -> Any:
        status = await rig.status(session_id)
        return status if status.status.reason == "QuotaLimit" else None

    return await until(look)


async def test_what_is_over_the_quota_waits_with_the_figures_and_then_starts(rig: Rig) -> None:
    rig.registry.set_quota("acme", sessions=2, replicas=3)
    first = await session(rig, replicas=2)
    await rig.ready(first, 2)
    second = await session(rig, replicas=2)
    status = await waits(rig, second)
    assert status.status.status == "Created"
    assert "replicas: 2 needed, 2 of 3 used" in status.status.message
    assert status.explanation == status.status.message
    assert {replica.reason for replica in status.replicas} == {R.ERROR_REASON_QUOTA_LIMIT}
    placement = (
        await rig.call("ExplainPlacement", pb.ExplainPlacementRequest(id=second))
    ).placement
    assert placement.reason == R.ERROR_REASON_QUOTA_LIMIT
    assert (placement.placed, placement.fitting) == (0, 0)
    (lack,) = placement.quota
    assert (lack.limit_name, lack.needed, lack.used, lack.kept, lack.limit) == (
        *("replicas", 2, 2, 0, 3),
    )
    told = await usage(rig)
    assert (told.usage.sessions, told.usage.replicas, told.usage.waiting_sessions) == (1, 2, 1)
    # One that would fit stands behind it, as it would take what the other waits for.
    third = await session(rig, replicas=1)
    assert "2 kept for sessions that wait longer" in (await waits(rig, third)).status.message
    await rig.terminate(first)
    await rig.ready(second, 2)
    await rig.ready(third)
    entity = await rig.call("GetInferenceSession", pb.GetInferenceSessionRequest(id=second))
    assert entity.inference_session.status == "Admitted"
    assert not entity.inference_session.HasField("reason")
    assert (await usage(rig)).usage.waiting_sessions == 0


async def test_a_dry_run_tells_of_the_quota(rig: Rig) -> None:
    rig.registry.set_quota("acme", sessions=0)
    wanted = inference_session_pb2.InferenceSessionCreateRequest(
        account="acme", inference_service=rig.registry.add()
    )
    request = pb.ExplainPlacementRequest(inference_session=wanted)
    placement = (await rig.call("ExplainPlacement", request)).placement
    assert placement.reason == R.ERROR_REASON_QUOTA_LIMIT
    assert "more than the account may have at all" in placement.summary


async def test_a_lower_quota_stops_nothing_and_a_higher_one_lets_go_on(rig: Rig) -> None:
    first = await session(rig)
    await rig.ready(first)
    rig.registry.set_quota("acme", sessions=0)
    await known(rig)
    second = await session(rig)
    await waits(rig, second)
    assert (await rig.status(first)).ready
    told = await usage(rig)
    assert (told.usage.sessions, told.quota.sessions) == (1, 0)
    rig.registry.set_quota("acme")
    await rig.ready(second)
    assert (await rig.status(first)).ready


async def test_a_session_that_waits_can_be_ended(rig: Rig) -> None:
    rig.registry.set_quota("acme", sessions=0)
    waiting = await session(rig)
    await waits(rig, waiting)
    await rig.terminate(waiting)
    told = await usage(rig)
    assert (told.usage.sessions, told.usage.waiting_sessions) == (0, 0)


async def test_other_accounts_are_not_held_up(rig: Rig) -> None:
    rig.registry.set_quota("acme", sessions=0)
    await waits(rig, await session(rig))
    wanted = inference_session_pb2.InferenceSessionCreateRequest(
        account="beta", inference_service=rig.registry.add(account="beta")
    )
    request = pb.CreateInferenceSessionRequest(inference_session=wanted)
    made = await rig.call("CreateInferenceSession", request, OTHER)
    await rig.ready(made.inferencesession.id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await usage(rig, OTHER)
    assert details_of(caught.value)[0].reason == "PERMISSION_DENIED"
    assert (await usage(rig, GUEST)).usage.waiting_sessions == 1


async def test_an_account_that_does_not_exist_gets_no_session(rig: Rig) -> None:
    rig.registry.missing_accounts.add("acme")
    service = rig.registry.add()
    for request_id in ("first", "second"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rig.create(service, request_id=request_id)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert details_of(caught.value)[0].reason == "ACCOUNT_NOT_FOUND"
    listed = await rig.call("ListInferenceSessions", pb.ListInferenceSessionsRequest())
    assert not listed.inference_sessions
    rig.registry.missing_accounts.clear()
    await rig.ready((await rig.create(service, request_id="first")).inferencesession.id)


async def test_without_a_registry_the_last_quota_holds(tmp_path: Path) -> None:
    async with fake_registry() as (registry, endpoint):
        rig = Rig(registry, endpoint, tmp_path / "data")
        await rig.start(drivers=("inprocess",))
        registry.set_quota("acme", sessions=1)
        await known(rig)
        first, second = await session(rig), await session(rig)
        await rig.ready(first)
        await waits(rig, second)
        await rig.stop()
    # Nobody listens there any more.
    await rig.start(drivers=("inprocess",))
    try:
        assert (await usage(rig)).quota.sessions == 1

        async def ready(session_id: str) -> bool:
            asked = pb.GetInferenceSessionStatusRequest(id=session_id)
            answer = await rig.call("GetInferenceSessionStatus", asked, SERVICE_TOKEN)
            return bool(answer.status.ready)

        await until(lambda: ready(first))
        assert not await ready(second)
        request = pb.TerminateInferenceSessionRequest(id=first)
        await rig.call("TerminateInferenceSession", request, SERVICE_TOKEN)
        await until(lambda: ready(second))
    finally:
        await rig.stop()


async def test_routers_are_told_the_limits_and_tell_what_runs(rig: Rig) -> None:
    rig.registry.set_quota("acme", requests_in_flight=4)
    await known(rig)
    call = rig.stream("WatchRoutes", pb.WatchRoutesRequest(router="r"), SERVICE_TOKEN)
    first = await call.read()
    assert [(each.account, each.requests_in_flight) for each in first.account_limits] == [
        ("acme", 4)
    ]
    report = pb.ReportUsageRequest(watch_id=first.watch_id, requests_in_flight={"acme": 3})
    await rig.call("ReportUsage", report, SERVICE_TOKEN)
    assert (await usage(rig)).usage.requests_in_flight == 3
    rig.registry.set_quota("acme")

    async def lifted() -> bool:
        news = await call.read()
        return any(not each.HasField("requests_in_flight") for each in news.account_limits)

    assert await until(lifted)
    call.cancel()

    async def forgotten() -> bool:
        return (await usage(rig)).usage.requests_in_flight == 0

    await until(forgotten)


async def test_the_audit_log(rig: Rig) -> None:
    made = await rig.create(rig.registry.add())
    name = made.inferencesession.id
    await rig.call("CreateSessionToken", pb.CreateSessionTokenRequest(id=name))
    await rig.call("GetInferenceSession", pb.GetInferenceSessionRequest(id=name))
    with pytest.raises(grpc.aio.AioRpcError):
        await rig.call("DeleteInferenceSession", pb.DeleteInferenceSessionRequest(id=name), OTHER)
    await rig.call("CordonNode", pb.CordonNodeRequest(name="local"))
    await rig.terminate(name)
    request = pb.ListSessionAuditRecordsRequest(page_size=100)
    answer = await rig.call("ListSessionAuditRecords", request)
    found: list[audit_pb2.AuditRecord] = list(answer.records)[::-1]
    assert [(each.method, each.resource_id, each.account, each.code) for each in found] == [
        ("CreateInferenceSession", name, "acme", 0),
        ("CreateSessionToken", name, "acme", 0),
        ("DeleteInferenceSession", name, "acme", grpc.StatusCode.NOT_FOUND.value[0]),
        ("CordonNode", "local", "", 0),
        ("TerminateInferenceSession", name, "acme", 0),
    ]
    assert [each.actor_token for each in found] == ["admin", "admin", "other", "admin", "admin"]
    assert made.token not in str(answer)
    mine = await rig.call("ListSessionAuditRecords", request, GUEST)
    assert {each.account for each in mine.records} == {"acme"}


def stored(folder: Path) -> tuple[list[SessionRecord], dict[str, list[ReplicaRecord]]]:
    """Read the records themselves."""
    with closing(sqlite3.connect(folder / "session-manager.sqlite3")) as database:
        sessions = [
            read_session(text)
            for (text,) in database.execute("select record from sessions where state <> 'ENDED'")
        ]
        replicas: dict[str, list[ReplicaRecord]] = {}
        for (text,) in database.execute("select record from replicas"):
            replica = read_replica(text)
            replicas.setdefault(replica.session_id, []).append(replica)
    return sessions, replicas


def check_limits(folder: Path, *, sessions: int, gpus: int) -> None:
    """See by the records alone that no more runs than may, at whatever point it was killed."""
    living, replicas = stored(folder)
    begun = [
        session
        for session in living
        if any(
            not replica.phase.ended and replica.phase is not ReplicaPhase.PENDING
            for replica in replicas.get(session.id, [])
        )
    ]
    assert len(begun) <= sessions
    assert sum(session.needs.gpus * session.desired for session in begun) <= gpus


@pytest.mark.timeout(600)
async def test_killed_at_random_points_what_is_used_stays_exact(tmp_path: Path) -> None:
    chance = random.Random(11)
    async with fake_registry() as (registry, endpoint):
        manager = Managed(registry, endpoint, tmp_path / "data")
        manager.mark = uuid.uuid4().hex
        registry.set_quota("acme", sessions=2, gpus={GPU_TYPE: 2})
        service = registry.add(
            kind="container",
            image={"host": "h", "name": "n", "digest": f"sha256:{'0' * 64}"},
            command=[sys.executable, "-S", "-c", SERVER],
        )
        await manager.launch()
        try:
            await known(manager)
            for _ in range(KILLS):
                doing = asyncio.create_task(_churn(manager, service, chance))
                await asyncio.sleep(chance.uniform(0.05, 0.5))
                await manager.end(signal.SIGKILL)
                await asyncio.gather(doing, return_exceptions=True)
                check_limits(manager.settings.data_dir, sessions=2, gpus=2)
                await manager.launch()
                await until(lambda: _exact(manager), 60)
            for living in await _listed(manager):
                await manager.terminate(living)
            told = (await usage(manager)).usage
            assert (told.sessions, told.replicas, dict(told.gpus)) == (0, 0, {})
            check_limits(manager.settings.data_dir, sessions=0, gpus=0)
        finally:
            await manager.end(signal.SIGKILL)
            await manager.launch(stop_replicas=True)
            await manager.end(signal.SIGTERM)


async def _listed(manager: Managed) -> list[str]:
    listed = await manager.call("ListInferenceSessions", pb.ListInferenceSessionsRequest())
    return [
        session.id
        for session in listed.inference_sessions
        if session.status in {"Created", "Admitted"}
    ]


async def _churn(manager: Managed, service: str, chance: random.Random) -> None:
    """Create and end sessions until the session manager dies."""
    while True:
        living = await _listed(manager)
        if len(living) < 5:
            gpu = common_pb2.AcceleratorGPU(hardware_types=[GPU_TYPE], count=chance.choice([1, 2]))
            await manager.create(service, accelerator=common_pb2.Accelerator(kind="GPU", gpu=gpu))
        elif chance.random() < 0.7:
            request = pb.TerminateInferenceSessionRequest(id=chance.choice(living))
            await manager.call("TerminateInferenceSession", request)


async def _exact(manager: Managed) -> bool:
    """Say whether what is told is what the records hold, and all begins that has room."""
    told = (await usage(manager)).usage
    sessions, replicas = stored(manager.settings.data_dir)
    check_limits(manager.settings.data_dir, sessions=2, gpus=2)
    begun = [s for s in sessions if s.status == "Admitted" and s.ended_at is None]
    if any(session.ended_at is not None for session in sessions):
        return False
    ready = {
        session.id
        for session in begun
        if any(r.phase is ReplicaPhase.READY for r in replicas.get(session.id, []))
    }
    if len(ready) != len(begun):
        return False
    gpus = sum(session.needs.gpus for session in begun)
    waiting = sorted((s.created_at, s.needs.gpus) for s in sessions if s.status == "Created")
    # It goes on meanwhile: what is told is compared until both are of the same moment.
    if (told.sessions, told.replicas, dict(told.gpus), told.waiting_sessions) != (
        *(len(begun), len(begun), {GPU_TYPE: gpus} if gpus else {}, len(waiting)),
    ):
        return False
    return not waiting or len(begun) == 2 or gpus + waiting[0][1] > 2
