"""Many calls over one stream, through a real router to scripted replicas."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import grpc
import pytest

from podbay.v1 import errors_pb2
from podbay.v1 import inference_router_service_pb2 as pb
from podbay.v1.session_manager_service_pb2 import ROUTE_STATE_ENDED
from podbay_inference_router.settings import Settings
from tests.support.eventually import eventually
from tests.support.router_fakes import ReplicaCall, echo, event
from tests.support.router_rig import Rig, call, running_rig
from tests.support.rpc import details_of

R = errors_pb2


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with running_rig() as made:
        yield made


async def test_many_calls_share_a_stream(rig: Rig) -> None:
    await rig.session("s", echo, echo)
    client = rig.exchange("s")
    await client.send(*[call(index, b"%d" % index) for index in range(300)])
    results = await client.results(300)
    for index, result in results.items():
        assert not result.HasField("error")
        assert [item.json for item in result.items] == [b"%d" % index]
        assert result.replica_id in {"s-r0", "s-r1"}
    await client.finish()
    await rig.idle()


async def test_a_failure_ends_its_call_only(rig: Rig) -> None:
    async def picky(request: ReplicaCall) -> None:
        if request.body == b"3":
            await request.reply(b"three is bad", status=422)
        else:
            await request.reply(request.body)

    await rig.session("s", picky)
    client = rig.exchange("s")
    upload = pb.FileUpload(name="f", filename="f", content_type="a\nb", content=b"x")
    await client.send(
        call(1, b"1"),
        call(2, b"1", endpoint="a b"),
        call(3, b"3"),
        pb.Call(id=4, endpoint="x"),
        pb.Call(id=5, endpoint="x", file_upload=upload),
        call(6, b"1", timeout=0),
        call(7, b"7"),
    )
    results = await client.results(7)
    reasons = {index: result.error.reason for index, result in results.items()}
    assert reasons == {
        1: 0,
        2: R.ERROR_REASON_INVALID_REQUEST,
        3: R.ERROR_REASON_REPLICA_REFUSED,
        4: R.ERROR_REASON_INVALID_REQUEST,
        5: R.ERROR_REASON_INVALID_REQUEST,
        6: R.ERROR_REASON_DEADLINE_EXCEEDED,
        7: 0,
    }
    assert results[2].error.violations[0].field == "endpoint"
    assert results[3].error.metadata["httpStatus"] == "422"
    assert results[3].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "three is bad" in results[3].error.message
    await client.finish()


async def test_an_id_in_use_is_refused_and_a_free_one_is_not(rig: Rig) -> None:
    gate = asyncio.Event()

    async def gated(request: ReplicaCall) -> None:
        await gate.wait()
        await request.reply(request.body)

    await rig.session("s", gated)
    client = rig.exchange("s")
    await client.send(call(1, b"1"), call(1, b"2"))
    result = await client.next()
    assert (result.id, result.error.reason) == (1, R.ERROR_REASON_DUPLICATE_CALL_ID)
    gate.set()
    assert (await client.next()).items[0].json == b"1"
    await client.send(call(1, b"3"))
    assert (await client.next()).items[0].json == b"3"
    await client.finish()


async def test_pieces_come_one_by_one_and_in_order(rig: Rig) -> None:
    taken = asyncio.Event()

    async def stream(request: ReplicaCall) -> None:
        await request.begin_chunks()
        for number in range(5):
            await request.chunk(event(number, "token"))
            await taken.wait()
            taken.clear()
        await request.chunk(b"data: [DONE]\n\n")
        await request.end_chunks()

    await rig.session("s", stream)
    client = rig.exchange("s")
    await client.send(call(9, stream=True))
    for number in range(5):
        result = await client.next()
        assert [(item.json, item.event) for item in result.items] == [(b"%d" % number, "token")]
        assert result.replica_id == ("s-r0" if number == 0 else "")
        assert not result.done
        taken.set()
    result = await client.next()
    assert result.done
    assert not result.items
    await client.finish()


async def test_a_large_answer_in_pieces_is_spread_over_messages(rig: Rig) -> None:
    line = b'"' + b"x" * 100_000 + b'"\n'

    async def lines(request: ReplicaCall) -> None:
        await request.begin_chunks("application/jsonl")
        for _ in range(40):
            await request.chunk(line)
        await request.end_chunks()

    await rig.session("s", lines)
    for stream in (False, True):
        client = rig.exchange("s")
        await client.send(call(1, stream=stream))
        parts = [await client.next()]
        while not parts[-1].done:
            parts.append(await client.next())
        assert len(parts) > 1
        assert max(part.ByteSize() for part in parts) < 1_500_000
        assert [item.json for part in parts for item in part.items] == [line.strip()] * 40
        assert parts[0].replica_id == "s-r0"
        await client.finish()


async def test_a_cancel_reaches_the_replica(rig: Rig) -> None:
    closed: asyncio.Queue[bytes] = asyncio.Queue()

    async def stall(request: ReplicaCall) -> None:
        await request.closed.wait()
        closed.put_nowait(request.body)

    (replica,) = await rig.session("s", stall, max_concurrency=1)
    client = rig.exchange("s")
    await client.send(call(1, b"1"), call(2, b"2"), call(3, b"3"))
    await eventually(lambda: replica.calls, "the replica has a call")
    await client.send(cancels=(2, 1, 77))
    results = await client.results(2)
    assert {item.error.reason for item in results.values()} == {R.ERROR_REASON_CANCELLED}
    assert results[2].error.not_started
    assert not results[1].error.not_started
    async with asyncio.timeout(20):
        assert await closed.get() == b"1"
    await eventually(lambda: len(replica.calls) == 2, "the call that waited runs")
    assert replica.calls[1].body == b"3"
    await client.send(cancels=(3,))
    await client.results(1)
    await client.finish()
    await rig.idle()


async def test_a_client_that_goes_takes_its_calls_along(rig: Rig) -> None:
    closed: asyncio.Queue[bytes] = asyncio.Queue()

    async def stall(request: ReplicaCall) -> None:
        await request.closed.wait()
        closed.put_nowait(request.body)

    (replica,) = await rig.session("s", stall)
    client = rig.exchange("s")
    await client.send(*[call(index) for index in range(10)])
    await eventually(lambda: len(replica.calls) == 10, "the replica has the calls")
    client.stream.cancel()
    async with asyncio.timeout(20):
        for _ in range(10):
            await closed.get()
    await rig.idle()


async def test_what_runs_is_answered_after_a_half_close(rig: Rig) -> None:
    gate = asyncio.Event()

    async def gated(request: ReplicaCall) -> None:
        await gate.wait()
        await request.reply(request.body)

    (replica,) = await rig.session("s", gated)
    client = rig.exchange("s")
    await client.send(call(1, b"1"))
    await eventually(lambda: replica.calls, "the replica has the call")
    await client.stream.done_writing()
    gate.set()
    assert (await client.next()).items[0].json == b"1"
    assert await client.stream.read() is grpc.aio.EOF
    assert await client.stream.code() is grpc.StatusCode.OK


async def test_a_deadline_of_a_call_is_its_own(rig: Rig) -> None:
    async def slow(request: ReplicaCall) -> None:
        if request.body == b"slow":
            await request.closed.wait()
        else:
            await request.reply()

    (replica,) = await rig.session("s", slow)
    client = rig.exchange("s")
    await client.send(call(1, b"slow", timeout=0.2), call(2, b"2", timeout=20))
    results = await client.results(2)
    assert results[1].error.reason == R.ERROR_REASON_DEADLINE_EXCEEDED
    assert not results[2].HasField("error")
    await client.finish()
    await eventually(lambda: replica.open_connections == 1, "the slow connection is closed")
    await rig.idle()


async def test_a_slow_reader_makes_the_replica_wait(rig: Rig) -> None:
    """The replica could send for ever; what it got rid of stays bounded until the client reads."""
    piece = b'data: "' + b"x" * 60_000 + b'"\n\n'
    sent = 0

    async def flood(request: ReplicaCall) -> None:
        nonlocal sent
        await request.begin_chunks()
        for _ in range(2000):
            await request.chunk(piece)
            sent += 1
        await request.end_chunks()

    await rig.session("s", flood)
    client = rig.exchange("s")
    await client.send(call(1, stream=True))
    seen = len((await client.next()).items)
    before, stable = -1, 0

    def stands_still() -> bool:
        nonlocal before, stable
        stable = stable + 1 if sent == before else 0
        before = sent
        return stable > 50

    await eventually(stands_still, "the replica waits")
    assert sent * len(piece) < 60 << 20
    while True:
        result = await client.next()
        seen += len(result.items)
        if result.done:
            break
    assert not result.HasField("error")
    assert seen == 2000
    await client.finish()


async def test_the_token_is_verified_when_the_stream_opens(rig: Rig) -> None:
    await rig.session("s", echo, epoch=2)
    for claims, reason in (({"exp": 1}, "TOKEN_EXPIRED"), ({"epoch": 1}, "TOKEN_REVOKED")):
        stream = rig.stub.Exchange(metadata=rig.metadata("s", **claims))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert details_of(caught.value)[0].reason == reason
    stream = rig.stub.Exchange()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert details_of(caught.value)[0].reason == "TOKEN_MISSING"


async def test_a_token_that_ends_ends_the_calls_but_not_the_stream(rig: Rig) -> None:
    await rig.session("s", echo)
    expires = time.time() + 1.0
    client = rig.exchange("s", exp=expires)
    await client.send(call(1))
    assert not (await client.next()).HasField("error")
    await eventually(lambda: time.time() > expires, "the token has expired")
    await client.send(call(2))
    assert (await client.next()).error.reason == R.ERROR_REASON_TOKEN_EXPIRED
    other = rig.exchange("s")
    await other.send(call(1))
    assert not (await other.next()).HasField("error")
    await other.finish()
    await client.finish()


async def test_a_token_that_is_revoked_ends_what_runs_and_the_stream(rig: Rig) -> None:
    gone = asyncio.Event()

    async def stall(request: ReplicaCall) -> None:
        await request.closed.wait()
        gone.set()

    await rig.session("s", stall)
    client, fresh = rig.exchange("s"), rig.exchange("s", epoch=5)
    await client.send(call(1))
    await fresh.send(call(1))
    single = asyncio.ensure_future(rig.infer("s"))
    await eventually(lambda: len(rig.replicas[0].calls) == 3, "the replica has the calls")
    await rig.routes("s", [rig.replicas[0].port], epoch=5)
    result = await client.next()
    assert (result.id, result.done) == (1, True)
    assert result.error.reason == R.ERROR_REASON_TOKEN_REVOKED
    # What was written on it later was not begun, and the client learns so by the stream's end.
    assert await client.ended() is grpc.StatusCode.OK
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await single
    assert details_of(caught.value)[0].reason == "TOKEN_REVOKED"
    # The replica is told at once, and those of newer tokens are left in peace.
    await asyncio.wait_for(gone.wait(), 10)
    session = rig.worker.dispatcher.table.expect("s")
    await eventually(lambda: session.running == 1, "the call of the newer token runs on")


async def test_a_session_that_is_terminated_lets_its_calls_finish(rig: Rig) -> None:
    gate = asyncio.Event()

    async def gated(request: ReplicaCall) -> None:
        await gate.wait()
        await request.reply(b'"late"')

    await rig.session("s", gated)
    client = rig.exchange("s")
    await client.send(call(1))
    await eventually(lambda: len(rig.replicas[0].calls) == 1, "the replica has the call")
    await rig.routes("s", [], state=ROUTE_STATE_ENDED)
    await client.send(call(2))
    assert (await client.next()).error.reason == R.ERROR_REASON_SESSION_TERMINATED
    gate.set()
    late = await client.next()
    assert (late.id, late.items[0].json) == (1, b'"late"')
    await client.finish()


async def test_a_lost_replica_fails_what_runs_there_and_nothing_else(rig: Rig) -> None:
    async def stall(request: ReplicaCall) -> None:
        await request.closed.wait()

    dying, _ = await rig.session("s", stall, echo)
    client = rig.exchange("s")
    await client.send(*[call(index) for index in range(20)])
    await eventually(lambda: dying.calls, "the dying replica has calls")
    await dying.stop()
    await client.send(*[call(index) for index in range(20, 60)])
    results = await client.results(60)
    lost = {index for index, result in results.items() if result.HasField("error")}
    assert len(lost) == len(dying.calls)
    assert {results[index].error.reason for index in lost} == {
        R.ERROR_REASON_REPLICA_CONNECTION_LOST
    }
    assert all(index < 20 for index in lost)
    await client.finish()
    await rig.idle()


async def test_a_thousand_random_cancels_leave_no_trace(rig: Rig) -> None:
    rng = random.Random(5)

    async def any_answer(request: ReplicaCall) -> None:
        match rng.randrange(4):
            case 0:
                await request.reply()
            case 1:
                await request.closed.wait()
            case 2:
                request.break_off()
            case _:
                await request.begin_chunks()
                await request.chunk(event(1))
                await asyncio.sleep(0)
                await request.end_chunks()

    await rig.session("s", any_answer, any_answer, max_concurrency=20)
    client = rig.exchange("s")
    for begin in range(0, 1000, 50):
        ids = range(begin, begin + 50)
        await client.send(*[call(index, stream=index % 2 == 0) for index in ids])
        await client.send(cancels=tuple(rng.sample(ids, 25)))
    await client.send(cancels=tuple(range(1000)))
    assert len(await client.results(1000)) == 1000
    await client.finish()
    await rig.idle()


async def test_a_draining_router_answers_what_runs_and_moves_the_rest_on() -> None:
    gate = asyncio.Event()

    async def gated(request: ReplicaCall) -> None:
        await gate.wait()
        await request.reply(request.body)

    async with running_rig() as rig:
        (replica,) = await rig.session("s", gated, max_concurrency=1)
        client = rig.exchange("s")
        await client.send(call(1, b"1"), call(2, b"2"))
        await eventually(lambda: replica.calls, "the replica has the call")
        stopping = asyncio.ensure_future(rig.stop_worker(20))
        result = await client.next()
        assert (result.id, result.error.reason) == (2, R.ERROR_REASON_ROUTER_DRAINING)
        assert result.error.not_started
        assert client.draining
        await client.send(call(3, b"3"))
        result = await client.next()
        assert (result.id, result.error.reason) == (3, R.ERROR_REASON_ROUTER_DRAINING)
        gate.set()
        assert (await client.next()).items[0].json == b"1"
        assert await client.stream.read() is grpc.aio.EOF
        assert await client.stream.code() is grpc.StatusCode.OK
        async with asyncio.timeout(20):
            await stopping


async def test_what_outlives_the_grace_is_ended_with_a_reason() -> None:
    async def stall(request: ReplicaCall) -> None:
        await request.closed.wait()

    async with running_rig(Settings()) as rig:
        (replica,) = await rig.session("s", stall)
        client = rig.exchange("s")
        await client.send(call(1))
        single = asyncio.ensure_future(rig.infer("s"))
        await eventually(lambda: len(replica.calls) == 2, "the replica has the calls")
        stopping = asyncio.ensure_future(rig.stop_worker(1.0))
        result = await client.next()
        assert result.error.reason == R.ERROR_REASON_ROUTER_DRAINING
        assert not result.error.not_started
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await single
        assert details_of(caught.value)[0].reason == "ROUTER_DRAINING"
        async with asyncio.timeout(20):
            await stopping
