"""Calls with an RPC of their own, through a real router to scripted replicas."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value
from grpc_health.v1 import health_pb2, health_pb2_grpc

from podbay.v1 import errors_pb2
from podbay.v1 import inference_router_service_pb2 as pb
from podbay.v1.session_manager_service_pb2 import ROUTE_STATE_ENDED
from podbay_inference_router.settings import Settings
from podbay_kit.serving import GrpcServer
from tests.support.eventually import eventually
from tests.support.router_fakes import ReplicaCall, SigningKey, echo, event, route
from tests.support.router_rig import Rig, running_rig
from tests.support.rpc import details_of


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with running_rig() as made:
        yield made


async def refused(awaitable: Any) -> tuple[grpc.StatusCode, str, dict[str, str], str]:
    """Return code, reason, metadata and message of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    info, _ = details_of(caught.value)
    return caught.value.code(), info.reason, dict(info.metadata), caught.value.details() or ""


async def test_json_passes_through(rig: Rig) -> None:
    (replica,) = await rig.session("s", echo)
    body = b'{"n": 18446744073709551617,  "x": 1}'
    response = await rig.infer("s", body, endpoint="v1/complete?x=1")
    assert [item.json for item in response.items] == [body]
    assert response.replica_id == "s-r0"
    seen = replica.calls[0]
    assert (seen.method, seen.path, seen.body) == ("POST", "/v1/complete?x=1", body)
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["host"] == f"127.0.0.1:{replica.port}"
    await rig.infer("s")
    assert replica.connections == 1
    await rig.idle()


async def test_values_go_in_and_come_out(rig: Rig) -> None:
    (replica,) = await rig.session("s", echo)
    value = Value()
    json_format.ParseDict({"a": [1, None, "x"]}, value)
    response = await rig.infer("s", value=value)
    assert json_format.MessageToDict(response.items[0].value) == {"a": [1, None, "x"]}
    assert replica.calls[0].body == b'{"a":[1,null,"x"]}'


async def test_a_file_is_sent_as_a_form(rig: Rig) -> None:
    async def answer(call: ReplicaCall) -> None:
        await call.reply(b'"ok"')

    (replica,) = await rig.session("s", answer)
    upload = pb.FileUpload(name="f", filename="a.txt", content_type="text/plain", content=b"hi")
    await rig.infer("s", file_upload=upload)
    assert replica.calls[0].headers["content-type"].startswith("multipart/form-data; boundary=")
    assert b'filename="a.txt"' in replica.calls[0].body


async def test_an_answer_in_pieces_comes_whole(rig: Rig) -> None:
    async def answer(call: ReplicaCall) -> None:
        await call.begin_chunks()
        await call.chunk(event({"t": 1}, "token") + event({"t": 2}) + b"data: [DONE]\n\n")
        await call.end_chunks()

    (replica,) = await rig.session("s", answer)
    for _ in range(2):
        response = await rig.infer("s")
        assert [(item.json, item.event) for item in response.items] == [
            (b'{"t": 1}', "token"),
            (b'{"t": 2}', ""),
        ]
    assert replica.connections == 1


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/x-ndjson"])
async def test_each_piece_comes_at_once(rig: Rig, content_type: str) -> None:
    taken = asyncio.Event()

    async def answer(call: ReplicaCall) -> None:
        await call.begin_chunks(content_type)
        for number in range(5):
            if content_type == "text/event-stream":
                await call.chunk(event(number))
            else:
                await call.chunk(b"%d\r\n" % number)
            await taken.wait()
            taken.clear()
        await call.end_chunks()

    await rig.session("s", answer)
    request = pb.StreamInferRequest(session_id="s", endpoint="x", json=b"{}")
    stream = rig.stub.StreamInfer(request, metadata=rig.metadata("s"), timeout=20)
    for number in range(5):
        message = await stream.read()
        assert [item.json for item in message.items] == [b"%d" % number]
        assert message.replica_id == ("s-r0" if number == 0 else "")
        taken.set()
    assert await stream.read() is grpc.aio.EOF
    await rig.idle()


async def test_a_stream_that_breaks_ends_with_a_reason(rig: Rig) -> None:
    async def answer(call: ReplicaCall) -> None:
        await call.begin_chunks()
        await call.chunk(event(1))
        await asyncio.sleep(0)
        call.break_off()

    await rig.session("s", answer, safe_to_retry=True)
    request = pb.StreamInferRequest(session_id="s", endpoint="x", json=b"{}")
    stream = rig.stub.StreamInfer(request, metadata=rig.metadata("s"), timeout=20)

    async def drain() -> None:
        async for _ in stream:
            pass

    code, reason, metadata, _ = await refused(drain())
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "REPLICA_CONNECTION_LOST")
    assert metadata["replica"] == "s-r0"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancel_closes_the_replicas_connection(rig: Rig, stream: bool) -> None:
    closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def stall(call: ReplicaCall) -> None:
        if stream:
            await call.begin_chunks()
            await call.chunk(event(1))
        await call.closed.wait()
        closed.set_result(None)

    (replica,) = await rig.session("s", stall)
    if stream:
        request = pb.StreamInferRequest(session_id="s", endpoint="x", json=b"{}")
        rpc = rig.stub.StreamInfer(request, metadata=rig.metadata("s"), timeout=20)
        await rpc.read()
    else:
        rpc = rig.stub.Infer(
            pb.InferRequest(session_id="s", endpoint="x", json=b"{}"),
            metadata=rig.metadata("s"),
            timeout=20,
        )
        await eventually(lambda: replica.calls, "the replica has the call")
    rpc.cancel()
    async with asyncio.timeout(20):
        await closed
    await rig.idle()


async def test_a_deadline_closes_the_replicas_connection(rig: Rig) -> None:
    closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def stall(call: ReplicaCall) -> None:
        await call.closed.wait()
        closed.set_result(None)

    await rig.session("s", stall)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.infer("s", timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(20):
        await closed
    await rig.idle()


async def test_a_replicas_status_reaches_the_caller(rig: Rig) -> None:
    async def refuse(call: ReplicaCall) -> None:
        await call.reply(b'{"detail":"slow down"}', status=429, headers=["Retry-After: 3"])

    await rig.session("s", refuse)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.infer("s")
    info, _ = details_of(caught.value)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert info.reason == "REPLICA_REFUSED"
    assert info.metadata["httpStatus"] == "429"
    assert "slow down" in (caught.value.details() or "")
    trailing: Any = caught.value.trailing_metadata()
    assert b"RetryInfo" in trailing["grpc-status-details-bin"]


async def test_a_long_refusal_fits_into_the_metadata(rig: Rig) -> None:
    async def refuse(call: ReplicaCall) -> None:
        await call.reply("ü".encode() * 40_000, status=500)

    await rig.session("s", refuse)
    for _ in range(20):  # gRPC refuses what is somewhat too large by lot
        code, reason, metadata, message = await refused(rig.infer("s"))
        assert (code, reason) == (grpc.StatusCode.ABORTED, "REPLICA_REFUSED")
        assert metadata["httpStatus"] == "500"
        assert "üü" in message


async def test_malformed_json_is_named(rig: Rig) -> None:
    async def strict(call: ReplicaCall) -> None:
        try:
            json.loads(call.body)
        except ValueError:
            await call.reply(b"bad", status=400)
        else:
            await call.reply()

    await rig.session("s", strict)
    code, reason, metadata, _ = await refused(rig.infer("s", b'{"a":\n oops}'))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_JSON")
    assert (metadata["line"], metadata["column"]) == ("2", "2")
    await rig.infer("s")


@pytest.mark.parametrize(
    "answer",
    [
        b"not http at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\n<a>",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000,
    ],
)
async def test_an_answer_that_cannot_be_used_is_named(rig: Rig, answer: bytes) -> None:
    async def garbage(call: ReplicaCall) -> None:
        await call.send(answer)

    await rig.session("s", garbage)
    code, reason, _, _ = await refused(rig.infer("s"))
    assert (code, reason) == (grpc.StatusCode.ABORTED, "REPLICA_BAD_ANSWER")
    await rig.idle()


async def test_an_answer_may_end_with_its_connection(rig: Rig) -> None:
    async def old(call: ReplicaCall) -> None:
        await call.send(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n[1,")
        await call.send(b"2]")
        call.writer.close()

    await rig.session("s", old)
    for _ in range(2):
        assert (await rig.infer("s")).items[0].json == b"[1,2]"


async def test_a_large_answer_and_a_large_body(rig: Rig) -> None:
    await rig.session("s", echo)
    body = b'"' + b"x" * (8 << 20) + b'"'
    assert (await rig.infer("s", body)).items[0].json == body


async def test_a_redirect_is_told_and_not_followed(rig: Rig) -> None:
    async def moved(call: ReplicaCall) -> None:
        await call.reply(b"", status=307, headers=["Location: /predict/"])

    (replica,) = await rig.session("s", moved)
    code, reason, metadata, message = await refused(rig.infer("s"))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REPLICA_REFUSED")
    assert (metadata["httpStatus"], metadata["location"]) == ("307", "/predict/")
    assert "sends the call to /predict/, and the router follows no redirects" in message
    assert len(replica.calls) == 1


async def test_a_body_that_is_too_large_is_refused() -> None:
    async with running_rig(Settings(max_body_bytes=1000)) as rig:
        await rig.session("s", echo)
        code, reason, _, _ = await refused(rig.infer("s", b"x" * 1001))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BODY_TOO_LARGE")


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"endpoint": ""}, "endpoint"),
        ({"endpoint": "a\r\nX: 1"}, "endpoint"),
        ({"json": b""}, "body"),
        ({"session_id": ""}, "sessionId"),
    ],
)
async def test_a_bad_request_names_its_field(rig: Rig, changes: dict[str, Any], path: str) -> None:
    await rig.session("s")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.infer("s", **changes)
    info, bad = details_of(caught.value)
    assert info.reason == "INVALID_REQUEST"
    assert [item.field for item in bad.field_violations] == [path]


async def test_an_unknown_field_is_refused(rig: Rig) -> None:
    await rig.session("s")
    raw = rig.channel.unary_unary("/podbay.v1.InferenceRouterService/Infer")
    request = pb.InferRequest(session_id="s", endpoint="x", json=b"{}").SerializeToString()
    code, reason, _, _ = await refused(
        raw(request + b"\xf8\x07\x01", metadata=rig.metadata("s"), timeout=20)
    )
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_tokens_are_verified(rig: Rig) -> None:
    await rig.session("s", echo, epoch=3)
    good = rig.metadata("s", epoch=3)
    await rig.infer("s", metadata=good)
    stranger = SigningKey("stranger").token("s", epoch=3)
    unauthenticated, denied = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
    for metadata, expected in (
        ([("x", "y")], (unauthenticated, "TOKEN_MISSING")),
        ([("authorization", "Basic abc")], (unauthenticated, "TOKEN_INVALID")),
        ([("authorization", "Bearer abc")], (unauthenticated, "TOKEN_INVALID")),
        ([("authorization", f"Bearer {stranger}")], (unauthenticated, "TOKEN_INVALID")),
        (rig.metadata("s", epoch=3, exp=1), (unauthenticated, "TOKEN_EXPIRED")),
        (rig.metadata("s", epoch=2), (unauthenticated, "TOKEN_REVOKED")),
        (rig.metadata("other", epoch=3), (denied, "TOKEN_FOR_OTHER_SESSION")),
    ):
        code, reason, _, message = await refused(rig.infer("s", metadata=metadata))
        assert (code, reason) == expected
        assert message
    await rig.routes("s", [rig.replicas[0].port], epoch=4)
    assert (await refused(rig.infer("s", metadata=good)))[1] == "TOKEN_REVOKED"


async def test_sessions_that_take_no_calls_say_why(rig: Rig) -> None:
    code, reason, _, _ = await refused(rig.infer("nobody"))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "INFERENCE_SESSION_NOT_FOUND")
    await rig.routes("s", [], message="the command was not found", evidence={"exitCode": "127"})
    code, reason, metadata, message = await refused(rig.infer("s"))
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "SESSION_NOT_READY")
    assert metadata["exitCode"] == "127"
    assert metadata["notStarted"] == "true"
    assert "the command was not found" in message
    await rig.routes(
        "s",
        [],
        state=ROUTE_STATE_ENDED,
        ended_reason=errors_pb2.ERROR_REASON_SESSION_EXPIRED,
        message="it reached its end",
    )
    code, reason, _, message = await refused(rig.infer("s"))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_EXPIRED")
    assert "it reached its end" in message


async def test_a_call_may_come_before_its_route() -> None:
    async with running_rig(Settings(settle_seconds=20)) as rig:
        replica = await rig.replica(echo)
        waiting = asyncio.ensure_future(rig.infer("s"))
        await eventually(lambda: rig.worker.dispatcher.active, "the call waits")
        await rig.routes("s", [replica.port])
        assert (await waiting).replica_id == "s-r0"


async def test_a_refused_connection_is_not_seen_by_the_caller(rig: Rig) -> None:
    dead, alive = await rig.session("s", echo, echo)
    await dead.stop()
    for _ in range(20):
        assert (await rig.infer("s")).replica_id == "s-r1"
    assert len(alive.calls) == 20
    await rig.idle()


async def test_a_call_waits_while_its_only_replica_is_replaced(rig: Rig) -> None:
    (dead,) = await rig.session("s", echo)
    await rig.infer("s")
    await dead.stop()
    waiting = asyncio.ensure_future(rig.infer("s"))
    await eventually(
        lambda: len(rig.worker.dispatcher.table.expect("s").waiting) == 1, "the call waits"
    )
    fresh = await rig.replica(echo)
    await rig.routes("s", [fresh.port])
    assert (await waiting).items[0].json == b"{}"
    await rig.idle()


@pytest.mark.parametrize("safe", [False, True])
async def test_a_call_that_was_sent_is_repeated_only_where_that_is_safe(
    rig: Rig, safe: bool
) -> None:
    attempts = 0

    async def break_first(call: ReplicaCall) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            call.break_off()
        else:
            await call.reply(b"1")

    await rig.session("s", break_first, break_first, safe_to_retry=safe)
    if safe:
        assert (await rig.infer("s")).items[0].json == b"1"
        assert attempts == 2
    else:
        code, reason, metadata, _ = await refused(rig.infer("s"))
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "REPLICA_CONNECTION_LOST")
        assert "notStarted" not in metadata
        assert attempts == 1
    await rig.idle()


async def test_a_replicas_limit_is_kept_and_the_queue_is_bounded() -> None:
    gate = asyncio.Event()

    async def gated(call: ReplicaCall) -> None:
        await gate.wait()
        await call.reply()

    async with running_rig(Settings(queue_length=2, queue_timeout=20)) as rig:
        (replica,) = await rig.session("s", gated, max_concurrency=1)
        calls = [asyncio.ensure_future(rig.infer("s")) for _ in range(3)]
        dispatcher = rig.worker.dispatcher
        await eventually(lambda: len(dispatcher.table.expect("s").waiting) == 2, "two calls wait")
        code, reason, _, _ = await refused(rig.infer("s"))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert len(replica.calls) == 1
        gate.set()
        await asyncio.gather(*calls)
        await rig.idle()


async def test_idle_connections_are_closed_before_the_replica_does() -> None:
    async with running_rig(Settings(idle_seconds=0.0)) as rig:
        (replica,) = await rig.session("s", echo)
        await rig.infer("s")
        await eventually(lambda: replica.open_connections == 0, "the connection was closed")
        await rig.infer("s")
        assert replica.connections == 2


async def test_a_connection_that_the_replica_closed_is_not_used(rig: Rig) -> None:
    async def answer_and_close(call: ReplicaCall) -> None:
        await call.reply()
        call.writer.close()

    (replica,) = await rig.session("s", answer_and_close)
    for _ in range(5):
        await rig.infer("s")
        await eventually(lambda: replica.open_connections == 0, "the connection was closed")
    assert replica.connections == 5


async def test_routes_are_acknowledged(rig: Rig) -> None:
    for port in range(5):
        rig.manager.set_route(route(f"session-{port}", [port + 1]))
    revision = rig.manager.revision
    await eventually(
        lambda: rig.manager.acknowledged == {"watch-1": revision}, "the last revision is told"
    )
    await rig.manager.stop()
    await rig.manager.start()
    await eventually(
        lambda: rig.manager.acknowledged.get("watch-2") == revision, "the new watch is told"
    )


async def test_signs_of_life_are_not_acknowledged(rig: Rig) -> None:
    first = rig.manager.revision
    await eventually(lambda: rig.manager.acknowledged == {"watch-1": first}, "it is told")
    before = rig.manager.acknowledgements
    for _ in range(3):
        rig.manager.sign_of_life()
    rig.manager.set_route(route("s", [1]))
    # What comes behind them on the same stream is, so that they have been read by then.
    await eventually(lambda: rig.manager.acknowledged == {"watch-1": first + 1}, "news are told")
    assert rig.manager.acknowledgements == before + 1


async def test_tokens_are_prepared_once_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    start = GrpcServer.start

    async def listen(server: GrpcServer, *, serving: bool = True) -> int:
        port = await start(server, serving=serving)
        order.append("listens")
        return port

    monkeypatch.setattr(GrpcServer, "start", listen)
    monkeypatch.setattr("podbay_inference_router.worker.prepare", lambda: order.append("prepared"))
    async with running_rig() as rig:
        await eventually(lambda: order == ["listens", "prepared"], "it prepares")
        await rig.session("s", echo)
        assert (await rig.infer("s")).items


async def test_a_router_that_knows_nothing_yet_says_so() -> None:
    async with running_rig(synced=False) as rig:
        code, reason, _, _ = await refused(rig.infer("s"))
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "ROUTER_NOT_SYNCED")
        health = health_pb2_grpc.HealthStub(rig.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_the_router_goes_on_without_the_session_manager(rig: Rig) -> None:
    (replica,) = await rig.session("s", echo)
    assert rig.manager.tokens == [f"Bearer {'s' * 40}"]
    await rig.manager.stop()
    for _ in range(5):
        await rig.infer("s")
    health = health_pb2_grpc.HealthStub(rig.channel)
    answer = await health.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    await rig.manager.start()
    await eventually(lambda: rig.manager.watches == 2, "the router watches again")
    await rig.routes("t", [replica.port])
    await rig.infer("t")
    await rig.infer("s")
