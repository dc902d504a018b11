"""The life of sessions, on a real session manager with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import urllib.request
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf import timestamp_pb2

from podbay.v1 import inference_session_pb2
from podbay.v1 import session_manager_service_pb2 as pb
from podbay_session_manager.drivers.process_tree import identity
from tests.support.fake_registry import OTHER
from tests.support.rpc import details_of
from tests.support.session_manager import SERVICE_TOKEN, Rig, session_manager, until

TOP = inference_session_pb2


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with session_manager(tmp_path / "data") as rig:
        yield rig


def timestamp(time: datetime) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(time)
    return message


async def test_from_creation_to_termination(rig: Rig) -> None:
    made = await rig.create(rig.registry.add())
    session_id = made.inferencesession.id
    assert made.inferencesession.status == "Created"
    status = await rig.ready(session_id)
    assert status.status.status == "Admitted"
    assert status.ready
    assert status.explanation == ""
    (replica,) = status.replicas
    assert replica.phase == TOP.REPLICA_PHASE_READY
    assert replica.node == "local"
    address = f"http://{replica.address}/ready"
    assert (await asyncio.to_thread(urllib.request.urlopen, address)).status == 200
    await rig.terminate(session_id)
    status = await rig.status(session_id)
    assert (status.status.status, status.status.reason) == ("Terminated", "TerminateCommand")
    assert [r.phase for r in status.replicas] == [TOP.REPLICA_PHASE_STOPPED]
    assert identity(replica.process_id) is None
    await rig.terminate(session_id)


async def test_a_killed_replica_is_replaced_quickly(rig: Rig) -> None:
    made = await rig.create(rig.registry.add(), replicas=2)
    status = await rig.ready(made.inferencesession.id, 2)
    victim, other = status.replicas
    os.kill(victim.process_id, signal.SIGKILL)
    began = time.monotonic()

    async def started() -> object:
        now = await rig.status(made.inferencesession.id)
        return [r for r in now.replicas if r.index == victim.index and r.attempt == 2]

    await until(started)
    noticed = time.monotonic() - began
    status = await rig.ready(made.inferencesession.id, 2)
    assert other.id in {r.id for r in status.replicas}
    (failed,) = [r for r in status.replicas if r.id == victim.id]
    assert failed.phase == TOP.REPLICA_PHASE_FAILED
    assert failed.exit_code == 137
    assert "SIGKILL" in failed.message
    assert noticed < 10


async def test_logs_stay_when_the_session_is_gone(rig: Rig) -> None:
    command = ["/bin/sh", "-c", "echo one; echo two; echo three; exec sleep 100"]
    made = await rig.create(rig.registry.add(command=command))
    session_id = made.inferencesession.id

    async def written() -> object:
        return len(await rig.log(session_id)) == 3

    await until(written)
    follow = asyncio.create_task(rig.log(session_id, follow=True))
    await rig.terminate(session_id)
    assert await asyncio.wait_for(follow, 30) == ["one", "two", "three"]
    assert await rig.log(session_id) == ["one", "two", "three"]
    assert await rig.log(session_id, tail=2) == ["two", "three"]
    (replica,) = (await rig.status(session_id)).replicas
    assert await rig.log(session_id, replica_id=replica.id, tail=0) == []
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await rig.log(session_id, replica_id="unknown")
    assert details_of(failure.value)[0].reason == "REPLICA_NOT_FOUND"


async def test_a_restart_adopts_what_runs(rig: Rig) -> None:
    made = await rig.create(rig.registry.add(), replicas=2)
    before = await rig.ready(made.inferencesession.id, 2)
    await rig.stop()
    assert all(identity(r.process_id) for r in before.replicas)
    os.kill(before.replicas[1].process_id, signal.SIGKILL)
    await rig.start()
    after = await rig.ready(made.inferencesession.id, 2)
    by_id = {r.id: r for r in after.replicas}
    kept = before.replicas[0]
    assert by_id[kept.id].process_id == kept.process_id
    assert by_id[kept.id].address == kept.address
    assert by_id[before.replicas[1].id].exit_code == 137


async def test_replicas_can_end_with_the_manager_and_come_back(rig: Rig) -> None:
    await rig.stop()
    await rig.start(stop_replicas_on_exit=True)
    made = await rig.create(rig.registry.add())
    (before,) = (await rig.ready(made.inferencesession.id)).replicas
    await rig.stop()
    assert identity(before.process_id) is None
    await rig.start()
    status = await rig.ready(made.inferencesession.id)
    assert status.status.status == "Admitted"
    assert {r.attempt for r in status.replicas if r.phase == TOP.REPLICA_PHASE_READY} == {2}


async def test_a_second_manager_stands_by_and_names_the_first(rig: Rig) -> None:
    made = await rig.create(rig.registry.add())
    second = Rig(rig.registry, rig.settings.registry_endpoint, rig.settings.data_dir)
    await second.start()
    try:
        for method, request in (
            ("GetInferenceSession", pb.GetInferenceSessionRequest(id=made.inferencesession.id)),
            (
                "TerminateInferenceSession",
                pb.TerminateInferenceSessionRequest(id=made.inferencesession.id),
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await second.call(method, request)
            info, *_ = details_of(failure.value)
            assert info.reason == "NOT_LEADER"
            assert info.metadata["leader"] == f"127.0.0.1:{rig.port}"
            assert info.metadata["notStarted"] == "true"
    finally:
        await second.stop()
    await rig.ready(made.inferencesession.id)


async def test_expiry_ends_a_session(rig: Rig) -> None:
    expires = datetime.now(UTC) + timedelta(seconds=1.5)
    made = await rig.create(rig.registry.add(), expires=timestamp(expires))
    session_id = made.inferencesession.id

    async def ended() -> object:
        return (await rig.status(session_id)).status.status == "Terminated"

    await until(ended)
    assert (await rig.status(session_id)).status.reason == "SessionExpired"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await rig.call("CreateSessionToken", pb.CreateSessionTokenRequest(id=session_id))
    assert details_of(failure.value)[0].reason == "SESSION_EXPIRED"


async def test_a_request_id_makes_one_session(rig: Rig) -> None:
    service = rig.registry.add()
    first = await rig.create(service, request_id="once")
    again = await rig.create(service, request_id="once")
    assert first.inferencesession.id == again.inferencesession.id
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await rig.create(service, request_id="once", replicas=2)
    assert details_of(failure.value)[0].reason == "REQUEST_ID_REUSED"


async def test_the_token_is_what_routers_verify(rig: Rig) -> None:
    made = await rig.create(rig.registry.add())
    watch = rig.stream("WatchRoutes", pb.WatchRoutesRequest(router="test"), SERVICE_TOKEN)
    first = await watch.read()
    assert first.snapshot
    assert first.watch_id
    (key,) = first.keys
    public = Ed25519PublicKey.from_public_bytes(key.ed25519_public_key)
    assert jwt.get_unverified_header(made.token)["kid"] == key.kid
    claims = jwt.decode(
        made.token, public, algorithms=["EdDSA"], audience="podbay-inference-router"
    )
    assert claims["sid"] == made.inferencesession.id
    assert claims["sub"] == "acme"
    assert claims["exp"] - claims["iat"] == 24 * 3600
    (route,) = first.routes
    assert route.epoch == claims["epoch"]
    revoked = await rig.call(
        "RevokeSessionTokens", pb.RevokeSessionTokensRequest(id=made.inferencesession.id)
    )
    assert revoked.epoch == route.epoch + 1

    async def told() -> object:
        return any(r.epoch == revoked.epoch for r in (await watch.read()).routes)

    await until(told)
    watch.cancel()


async def test_a_token_ends_no_later_than_the_session(rig: Rig) -> None:
    expires = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    made = await rig.create(rig.registry.add(), expires=timestamp(expires))
    claims = jwt.decode(made.token, options={"verify_signature": False})
    assert claims["exp"] == int(expires.timestamp())
    request = pb.CreateSessionTokenRequest(
        id=made.inferencesession.id, expires=timestamp(expires + timedelta(minutes=1))
    )
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await rig.call("CreateSessionToken", request)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_ready_waits_for_the_routers(rig: Rig) -> None:
    watch = rig.stream("WatchRoutes", pb.WatchRoutesRequest(router="test"), SERVICE_TOKEN)
    first = await watch.read()

    async def acknowledge(revision: int) -> None:
        request = pb.AcknowledgeRoutesRequest(watch_id=first.watch_id, revision=revision)
        await rig.call("AcknowledgeRoutes", request, SERVICE_TOKEN)

    await acknowledge(first.revision)
    made = await rig.create(rig.registry.add())
    session_id = made.inferencesession.id
    while True:
        change = await watch.read()
        if any(route.endpoints for route in change.routes):
            break
        await acknowledge(change.revision)
    status = await rig.status(session_id)
    assert status.replicas[0].phase == TOP.REPLICA_PHASE_READY
    assert not status.ready
    await acknowledge(change.revision)
    assert (await rig.status(session_id)).ready
    watch.cancel()


async def test_a_silent_router_does_not_hold_up_everybody(rig: Rig) -> None:
    watch = rig.stream("WatchRoutes", pb.WatchRoutesRequest(router="test"), SERVICE_TOKEN)
    await watch.read()
    made = await rig.create(rig.registry.add())
    await rig.ready(made.inferencesession.id)
    watch.cancel()


async def test_routes_of_ended_sessions_say_why(rig: Rig) -> None:
    made = await rig.create(rig.registry.add(command=["/no/such/command"]))
    await rig.failed(made.inferencesession.id)
    watch = rig.stream("WatchRoutes", pb.WatchRoutesRequest(router="test"), SERVICE_TOKEN)
    (route,) = (await watch.read()).routes
    assert route.state == pb.ROUTE_STATE_ENDED
    assert route.evidence["reason"] == "COMMAND_NOT_FOUND"
    assert "/no/such/command" in route.message
    watch.cancel()
    await rig.stop()
    await rig.start()
    watch = rig.stream("WatchRoutes", pb.WatchRoutesRequest(router="test"), SERVICE_TOKEN)
    assert list((await watch.read()).routes) == [route]
    watch.cancel()


async def test_a_cordoned_node_takes_nothing_new(rig: Rig) -> None:
    await rig.call("CordonNode", pb.CordonNodeRequest(name="local"))
    made = await rig.create(rig.registry.add())

    async def explained() -> object:
        return "cordoned" in (await rig.status(made.inferencesession.id)).explanation

    await until(explained)
    nodes = await rig.call("ListNodes", pb.ListNodesRequest())
    assert [n.state for n in nodes.nodes] == [TOP.NODE_STATE_CORDONED]
    await rig.stop()
    await rig.start()
    await until(explained)
    node = await rig.call("UncordonNode", pb.UncordonNodeRequest(name="local"))
    assert node.node.state == TOP.NODE_STATE_READY
    await rig.ready(made.inferencesession.id)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await rig.call("GetNode", pb.GetNodeRequest(name="moon"))
    assert details_of(failure.value)[0].reason == "NODE_NOT_FOUND"


async def test_watching_sessions_and_labels(rig: Rig) -> None:
    watch = rig.stream("WatchInferenceSessions", pb.WatchInferenceSessionsRequest())
    made = await rig.create(rig.registry.add())
    session_id = made.inferencesession.id
    request = pb.LabelInferenceSessionRequest(id=session_id)
    request.labels["stage"].value = "test"
    await rig.call("LabelInferenceSession", request)
    seen: list[tuple[str, str]] = []
    while ("Admitted", "test") not in seen:
        event = await asyncio.wait_for(watch.read(), 30)
        if event.HasField("inference_session"):
            session = event.inference_session
            seen.append((session.status, session.labels.get("stage", "")))
    watch.cancel()
    listing = pb.ListInferenceSessionsRequest()
    listing.filter.labels["stage"] = "test"
    found = await rig.call("ListInferenceSessions", listing)
    assert [s.id for s in found.inference_sessions] == [session_id]
    assert not (await rig.call("ListInferenceSessions", listing, OTHER)).inference_sessions


async def test_deleting_ends_and_marks(rig: Rig) -> None:
    made = await rig.create(rig.registry.add())
    session_id = made.inferencesession.id
    await rig.ready(session_id)
    deleted = await rig.call(
        "DeleteInferenceSession", pb.DeleteInferenceSessionRequest(id=session_id)
    )
    assert (deleted.status.status, deleted.status.reason) == ("Deleted", "DeleteCommand")
    got = await rig.call("GetInferenceSession", pb.GetInferenceSessionRequest(id=session_id))
    assert got.inference_session.status == "Deleted"


async def test_others_may_not(rig: Rig) -> None:
    made = await rig.create(rig.registry.add())
    session_id = made.inferencesession.id
    denied, hidden = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND
    for method, request, code in (
        ("GetInferenceSession", pb.GetInferenceSessionRequest(id=session_id), hidden),
        ("TerminateInferenceSession", pb.TerminateInferenceSessionRequest(id=session_id), hidden),
        ("GetInferenceSessionStatus", pb.GetInferenceSessionStatusRequest(id=session_id), hidden),
        ("ListNodes", pb.ListNodesRequest(), denied),
        ("AcknowledgeRoutes", pb.AcknowledgeRoutesRequest(), denied),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await rig.call(method, request, OTHER)
        assert failure.value.code() is code, method
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await rig.call("ListNodes", pb.ListNodesRequest(), "unknown")
    assert details_of(failure.value)[0].reason == "TOKEN_INVALID"


async def test_the_inprocess_driver_serves_mocks(rig: Rig) -> None:
    await rig.stop()
    await rig.start(drivers=("inprocess",))
    made = await rig.create(rig.registry.add(), replicas=3)
    status = await rig.ready(made.inferencesession.id, 3)
    assert {r.process_id for r in status.replicas} == {os.getpid()}
    await rig.stop()
    await rig.start(drivers=("inprocess",))
    await rig.ready(made.inferencesession.id, 3)
    await rig.terminate(made.inferencesession.id)
