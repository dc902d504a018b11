"""What does not start says why, on a real session manager with real processes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest

from podbay.schema.serving import ServingOptions
from podbay.v1 import errors_pb2, inference_session_pb2
from podbay.v1 import session_manager_service_pb2 as pb
from podbay_session_manager.policy import Policy
from tests.support.fake_registry import GUEST
from tests.support.rpc import details_of
from tests.support.session_manager import SERVICE_TOKEN, Rig, session_manager, until

READY = inference_session_pb2.REPLICA_PHASE_READY
FAILING = errors_pb2.ERROR_REASON_REPLICA_FAILING


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with session_manager(tmp_path / "data") as rig:
        yield rig


async def failure_of(rig: Rig, service: str) -> Any:
    made = await rig.create(service)
    return await rig.failed(made.inferencesession.id)


async def test_command_not_found(rig: Rig) -> None:
    status = await failure_of(rig, rig.registry.add(command=["no-such-command-here"]))
    assert status.status.reason == "CommandNotFound"
    assert "no-such-command-here" in status.status.message
    (replica,) = status.replicas
    assert replica.reason == errors_pb2.ERROR_REASON_COMMAND_NOT_FOUND
    assert replica.attempt == 1
    assert status.explanation == status.status.message


async def test_exit_at_once_comes_with_code_and_log(rig: Rig) -> None:
    command = ["/bin/sh", "-c", "echo loading weights; echo out of luck >&2; exit 7"]
    status = await failure_of(rig, rig.registry.add(command=command))
    assert status.status.reason == "ReplicaExited"
    assert "exit code 7" in status.status.message
    replica = status.replicas[-1]
    assert replica.exit_code == 7
    assert replica.attempt == 3
    assert list(replica.log_tail) == ["loading weights", "out of luck"]


async def test_a_port_that_is_never_opened(rig: Rig) -> None:
    serving = ServingOptions(start_timeout=1.0)
    command = ["/bin/sh", "-c", "echo busy; exec sleep 100"]
    status = await failure_of(rig, rig.registry.add(command=command, serving=serving))
    assert status.status.reason == "PortNotOpened"
    assert "connection refused" in status.status.message
    (replica,) = status.replicas
    assert list(replica.log_tail) == ["busy"]


async def test_port_taken(rig: Rig) -> None:
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        status = await failure_of(rig, rig.registry.add(env={"PORT": str(port)}))
    finally:
        server.close()
        await server.wait_closed()
    assert status.status.reason == "PortTaken"
    assert str(port) in status.status.message


async def test_mock_not_importable(rig: Rig) -> None:
    status = await failure_of(rig, rig.registry.add(name="tests.support.no_such_module.Mock"))
    assert status.status.reason == "MockNotImportable"
    (replica,) = status.replicas
    assert replica.exit_code == 78
    assert any("no_such_module" in line for line in replica.log_tail)


async def test_working_directory_not_found(rig: Rig) -> None:
    service = rig.registry.add(command=["/bin/true"], workingDir="/no/such/folder")
    status = await failure_of(rig, service)
    assert status.status.reason == "WorkingDirectoryNotFound"


@pytest.mark.parametrize(
    ("service", "session", "word"),
    [
        ({"kind": "vllm"}, {}, "vllm"),
        ({"nodes": 2}, {}, "runner.nodes"),
        ({"resources": {"memory": "1Gi"}}, {}, "runner.resources.memory"),
        ({"accelerator": {"kind": "GPU", "gpu": {"hardwareTypes": ["x"]}}}, {}, "accelerator"),
        ({"env": {"PORT": "9999"}}, {"replicas": 2}, "PORT=9999"),
    ],
)
async def test_what_no_driver_can_do_is_refused(
    rig: Rig, service: dict[str, Any], session: dict[str, Any], word: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await rig.create(rig.registry.add(**service), **session)
    assert details_of(failure.value)[0].reason == "UNSUPPORTED_SERVICE"
    assert word in (failure.value.details() or "")


async def test_without_drivers_nothing_is_created(rig: Rig) -> None:
    await rig.stop()
    await rig.start(drivers=())
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await rig.create(rig.registry.add())
    assert details_of(failure.value)[0].reason == "UNSUPPORTED_SERVICE"
    assert "--drivers" in (failure.value.details() or "")


async def test_requests_that_cannot_be(rig: Rig) -> None:
    service = rig.registry.add()
    deleted = rig.registry.add()
    rig.registry.services[deleted] = rig.registry.services[deleted].model_copy(
        update={"status": "Deleted"}
    )
    for wanted, fields, reason in (
        ("unknown", {}, "INFERENCE_SERVICE_NOT_FOUND"),
        (deleted, {}, "REFERENCE_DELETED"),
        (service, {"replicas": 0}, "INVALID_REQUEST"),
        ("", {}, "INVALID_REQUEST"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await rig.create(wanted, **fields)
        assert details_of(failure.value)[0].reason == reason


async def test_a_replica_that_fell_silent_leaves_the_routes(rig: Rig) -> None:
    script = (
        "import http.server, os, sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(503 if os.path.exists(sys.argv[1]) else 200)\n"
        "        self.send_header('content-length', '0')\n"
        "        self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()\n"
    )
    flag = rig.settings.data_dir / "silent"
    command = ["python3", "-c", script, str(flag)]
    made = await rig.create(rig.registry.add(command=command))
    session_id = made.inferencesession.id
    await rig.ready(session_id)
    flag.touch()

    async def unready() -> object:
        status = await rig.status(session_id)
        (replica,) = status.replicas
        return not status.ready and "HTTP status 503" in replica.message

    await until(unready)
    flag.unlink()
    await rig.ready(session_id)


async def test_what_routers_tell_of_a_failing_replica_shows_until_it_recovers(rig: Rig) -> None:
    made = await rig.create(rig.registry.add())
    session_id = made.inferencesession.id
    (replica,) = (await rig.ready(session_id)).replicas
    report = pb.ReportReplicaRequest(
        session_id=session_id,
        replica_id=replica.id,
        failures=5,
        http_status=500,
        detail="CUDA error: out of memory",
        set_aside=True,
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.call("ReportReplica", report)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED, "routers only"
    news = rig.stream(
        "WatchInferenceSessionStatus", pb.WatchInferenceSessionStatusRequest(id=session_id)
    )
    assert (await news.read()).status.replicas[0].message == ""
    await rig.call("ReportReplica", report, SERVICE_TOKEN)
    (shown,) = (await news.read()).status.replicas
    assert shown.reason == errors_pb2.ERROR_REASON_REPLICA_FAILING
    assert "5 calls" in shown.message
    assert "HTTP status 500" in shown.message
    assert "CUDA error: out of memory" in shown.message
    assert (await rig.status(session_id)).ready, "its probe is answered"
    unknown = pb.ReportReplicaRequest(session_id=session_id, replica_id="gone", failures=5)
    await rig.call("ReportReplica", unknown, SERVICE_TOKEN)
    report.failures = 0
    await rig.call("ReportReplica", report, SERVICE_TOKEN)
    (shown,) = (await news.read()).status.replicas
    assert (shown.reason, shown.message) == (0, "")
    news.cancel()


async def test_a_replica_that_goes_on_failing_its_calls_is_replaced(rig: Rig) -> None:
    await rig.stop()
    await rig.start(policy=Policy(failing_limit=0.2, drain=0.1))
    serve = f"exec {sys.executable} -m podbay_kit.replica_server podbay.local.mocks.Echo"
    command = ["/bin/sh", "-c", f"echo weights are broken; {serve}"]
    made = await rig.create(rig.registry.add(command=command), replicas=2)
    session_id = made.inferencesession.id
    bad, good = (await rig.ready(session_id, replicas=2)).replicas

    def report(replica_id: str) -> pb.ReportReplicaRequest:
        return pb.ReportReplicaRequest(
            session_id=session_id,
            replica_id=replica_id,
            failures=5,
            http_status=500,
            detail="weights",
            set_aside=True,
        )

    async def replaced() -> object:
        await rig.call("ReportReplica", report(bad.id), SERVICE_TOKEN)
        status = await rig.status(session_id)
        assert status.ready, "the other one serves"
        old = [r for r in status.replicas if r.id == bad.id and r.reason == FAILING]
        return (
            old
            and old[0].phase == inference_session_pb2.REPLICA_PHASE_FAILED
            and "while other replicas of the session are healthy" in old[0].message
            and "weights are broken" in list(old[0].log_tail)
        )

    await until(replaced)
    status = await rig.ready(session_id, replicas=2)
    assert bad.id not in {r.id for r in status.replicas if r.phase == READY}
    # The other one is the last healthy one where the new one fails, too.
    (new,) = [r for r in status.replicas if r.phase == READY and r.id != good.id]
    await rig.call("ReportReplica", report(new.id), SERVICE_TOKEN)
    for _ in range(5):
        await rig.call("ReportReplica", report(good.id), SERVICE_TOKEN)
    assert good.id in {r.id for r in (await rig.status(session_id)).replicas if r.phase == READY}


async def test_a_token_is_for_the_calls_of_who_asked_for_it(rig: Rig) -> None:
    made = await rig.create(rig.registry.add())
    session_id = made.inferencesession.id
    request = pb.CreateSessionTokenRequest(id=session_id)
    response = await rig.call("CreateSessionToken", request, GUEST)
    claims = [
        jwt.decode(token, options={"verify_signature": False})
        for token in (made.token, response.token)
    ]
    assert [item["sub"] for item in claims] == ["acme", "guest"]
