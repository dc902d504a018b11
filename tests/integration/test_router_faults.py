"""A router under faults: outages, failing replicas, cancels by the thousand, slow replicas."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator

import grpc
import pytest

from podbay.v1 import errors_pb2
from podbay.v1 import inference_router_service_pb2 as pb
from podbay_inference_router.settings import Settings
from tests.support.eventually import eventually
from tests.support.router_fakes import ReplicaCall, echo, event
from tests.support.router_rig import Rig, call, running_rig

R = errors_pb2

# The outage of the session manager: short in the suite, five minutes where somebody has the time.
OUTAGE_SECONDS = float(os.environ.get("PODBAY_OUTAGE_SECONDS", "10"))
OUTAGE_RATE = 100


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with running_rig() as made:
        yield made


async def refuse(request: ReplicaCall) -> None:
    await request.reply(b"CUDA error: out of memory", status=500)


async def test_a_failing_replica_is_left_alone_and_told_of_until_it_recovers() -> None:
    async with running_rig(Settings(failures_in_row=3)) as rig:
        bad, good = await rig.session("s", refuse, echo)
        client = rig.exchange("s")
        reasons: Counter[int] = Counter()
        sent = 0
        while not rig.manager.reports:
            assert sent < 200
            await client.send(call(sent))
            reasons[(await client.next()).error.reason] += 1
            sent += 1
        report = rig.manager.reports[0]
        assert (report.session_id, report.replica_id) == ("s", "s-r0")
        assert (report.failures, report.http_status, report.set_aside) == (3, 500, True)
        assert "CUDA error: out of memory" in report.detail
        assert reasons[R.ERROR_REASON_REPLICA_REFUSED] == 3
        seen = len(bad.calls)
        for number in range(50):
            await client.send(call(sent + number))
            assert not (await client.next()).HasField("error")
        assert len(bad.calls) <= seen + 1
        bad.handler = echo
        number = sent + 50

        async def recovered() -> bool:
            nonlocal number
            number += 1
            await client.send(call(number))
            await client.next()
            return rig.manager.reports[-1].failures == 0

        await eventually(recovered, "the replica is tried again, and is well")
        assert good.calls
        await client.finish()
        await rig.idle()


async def test_the_only_replica_goes_on_with_its_failures_told(rig: Rig) -> None:
    (bad,) = await rig.session("s", refuse)
    client = rig.exchange("s")
    for number in range(20):
        await client.send(call(number))
        result = await client.next()
        assert result.error.reason == R.ERROR_REASON_REPLICA_REFUSED
    assert len(bad.calls) == 20
    await eventually(lambda: len(rig.manager.reports) == 3, "it was told of 5, 10 and 20")
    assert not any(report.set_aside for report in rig.manager.reports)
    await client.finish()


async def test_the_replica_is_told_the_time_and_the_trace(rig: Rig) -> None:
    (replica,) = await rig.session("s", echo)
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    client = rig.exchange("s")
    await client.send(
        call(1, timeout=7.0, traceparent=parent, tracestate="vendor=1"),
        call(2, timeout=7.0, traceparent="00-xyz\r\nX-Evil: 1"),
    )
    await client.results(2)
    metadata = [*rig.metadata("s"), ("traceparent", parent)]
    await rig.infer("s", metadata=metadata, timeout=9)
    with_trace, without, unary = (request.headers for request in replica.calls)
    # gRPC rounds a deadline up a little on its way.
    assert 5000 < int(with_trace["podbay-timeout-ms"]) <= 7000
    assert 7000 < int(unary["podbay-timeout-ms"]) <= 9200
    assert (with_trace["traceparent"], with_trace["tracestate"]) == (parent, "vendor=1")
    assert unary["traceparent"] == parent
    assert "traceparent" not in without
    assert "x-evil" not in without
    await client.finish()


async def test_plain_text_in_chunks_comes_in_pieces(rig: Rig) -> None:
    taken = asyncio.Event()

    async def speak(request: ReplicaCall) -> None:
        await request.begin_chunks("text/plain; charset=utf-8")
        for part in (b"The pod bay ", b"d\xc3", b"\xb6\xc3", b"\xb6rs"):
            await request.chunk(part)
            if request.body == b"1":
                await taken.wait()
                taken.clear()
        await request.end_chunks()

    await rig.session("s", speak)
    client = rig.exchange("s")
    await client.send(call(1, b"1", stream=True))
    pieces = []
    for _ in range(4):
        pieces += [item.json for item in (await client.next()).items]
        taken.set()
    assert pieces == [b'"The pod bay "', b'"d"', '"ö"'.encode(), '"örs"'.encode()]
    assert (await client.next()).done
    await client.send(call(2, b"2"))
    result = await client.next()
    assert [item.json for item in result.items] == ['"The pod bay döörs"'.encode()]
    await client.finish()


async def test_a_paused_call_makes_its_replica_wait_and_no_other(rig: Rig) -> None:
    sent: Counter[bytes] = Counter()

    async def flood(request: ReplicaCall) -> None:
        await request.begin_chunks("application/x-ndjson")
        while not request.closed.is_set():
            await request.chunk(b'"' + b"x" * 50_000 + b'"\n')
            sent[request.body] += 1

    await rig.session("s", flood, flood)
    client = rig.exchange("s")
    await client.send(call(1, b"1", stream=True), call(2, b"2", stream=True))
    await client.next()
    await client.stream.write(pb.ExchangeRequest(pauses=[1]))

    async def only_the_other_goes_on() -> bool:
        before, other = sent[b"1"], sent[b"2"]
        came = {(await client.next()).id for _ in range(200)}
        return came == {2} and sent[b"1"] == before and sent[b"2"] > other

    await eventually(only_the_other_goes_on, "the first one waits while the second goes on")
    before = sent[b"1"]
    assert await only_the_other_goes_on()
    assert sent[b"1"] == before
    await client.stream.write(pb.ExchangeRequest(resumes=[1], cancels=[2]))

    async def goes_on() -> bool:
        await client.next()
        return sent[b"1"] > before

    await eventually(goes_on, "the first one goes on")
    await client.send(cancels=(1,))
    client.stream.cancel()
    await rig.idle()


async def test_ten_thousand_random_cancels_leave_every_counter_at_zero() -> None:
    rng = random.Random(7)

    async def any_answer(request: ReplicaCall) -> None:
        match rng.randrange(5):
            case 0:
                await request.reply()
            case 1:
                await request.closed.wait()
            case 2:
                request.break_off()
            case 3:
                await request.reply(b"no", status=rng.choice([429, 500, 503]))
            case _:
                await request.begin_chunks()
                await request.chunk(event(1))
                await asyncio.sleep(0)
                await request.end_chunks()

    async with running_rig(Settings(queue_length=500, account_in_flight=30)) as rig:
        await rig.session("s", any_answer, any_answer, max_concurrency=20, safe_to_retry=True)
        client = rig.exchange("s")
        done = 0
        for begin in range(0, 10_000, 100):
            ids = range(begin, begin + 100)
            await client.send(*[call(index, stream=index % 2 == 0) for index in ids])
            await client.send(cancels=tuple(rng.sample(ids, 60)))
            await client.send(cancels=tuple(ids))
            done += len(await client.results(100))
        assert done == 10_000
        await client.finish()
        await rig.idle()
        session = rig.worker.dispatcher.table.find("s")
        assert session is not None
        account = rig.worker.dispatcher.account("acct")
        assert (session.running, len(session.waiting)) == (0, 0)
        assert (account.running, account.waiting, list(account.held)) == (0, 0, [])
        assert all(not endpoint.probing for endpoint in session.endpoints)


async def test_the_session_manager_may_be_away_at_a_hundred_calls_a_second() -> None:
    """No call fails in the outage, nor when the session manager is back with another table."""
    async with running_rig() as rig:
        kept, leaving = await rig.session("s", echo, echo)
        client = rig.exchange("s")
        failures: list[pb.CallResult] = []
        sent = answered = 0
        over, finished = asyncio.Event(), asyncio.Event()

        async def send() -> None:
            nonlocal sent
            begin = time.monotonic()
            while not over.is_set():
                sent += 1
                await client.send(call(sent))
                await asyncio.sleep(max(0.0, begin + sent / OUTAGE_RATE - time.monotonic()))
            # The last one wakes who waits for answers.
            sent += 1
            finished.set()
            await client.send(call(sent))

        async def receive() -> None:
            nonlocal answered
            while not (finished.is_set() and answered == sent):
                result = await client.next()
                answered += 1
                if result.HasField("error"):
                    failures.append(result)

        sending, receiving = asyncio.ensure_future(send()), asyncio.ensure_future(receive())
        await eventually(lambda: answered > 20, "calls are answered")
        await rig.manager.stop()
        began = answered
        await asyncio.sleep(OUTAGE_SECONDS)  # the length of the outage is what this is about
        assert answered - began > OUTAGE_RATE * OUTAGE_SECONDS * 0.5
        # What changed meanwhile comes as one snapshot.
        fresh = await rig.replica(echo)
        rig.manager.set_route_later("s", [kept.port, fresh.port])
        await rig.manager.start()
        await eventually(lambda: len(fresh.calls) > 5, "calls go to the new replica")
        seen = len(leaving.calls)
        mark = answered
        await eventually(lambda: answered > mark + 100, "calls go on")
        assert len(leaving.calls) == seen
        over.set()
        await asyncio.gather(sending, receiving)
        assert failures == []
        await client.finish()
        await rig.idle()


async def test_calls_over_a_full_session_are_refused_with_a_delay() -> None:
    gate = asyncio.Event()

    async def gated(request: ReplicaCall) -> None:
        await gate.wait()
        await request.reply()

    settings = Settings(queue_length=2, account_in_flight=3, account_queue_length=2)
    async with running_rig(settings) as rig:
        await rig.session("s", gated, max_in_flight=1)
        await rig.routes("t", [rig.replicas[0].port])
        one, two = rig.exchange("s"), rig.exchange("t")
        await one.send(*[call(number) for number in range(4)])
        result = await one.next()
        assert result.error.reason == R.ERROR_REASON_QUEUE_FULL or (
            result.error.reason == R.ERROR_REASON_ACCOUNT_LIMIT
        )
        assert result.error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert result.error.HasField("retry_delay")
        assert result.error.not_started
        # The account's other session: one runs in s, so two more may run, and none more may wait.
        await two.send(*[call(number) for number in range(3)])
        result = await two.next()
        assert result.error.reason == R.ERROR_REASON_ACCOUNT_LIMIT
        assert result.error.metadata["account"] == "acct"
        gate.set()
        assert len(await one.results(3)) == 3
        assert len(await two.results(2)) == 2
        await one.finish()
        await two.finish()
        await rig.idle()


async def test_calls_with_a_key_go_to_one_replica(rig: Rig) -> None:
    replicas = await rig.session("s", echo, echo, echo)
    client = rig.exchange("s")
    for number in range(30):
        await client.send(call(number, affinity_key="user-1"))
        await client.next()
    assert sorted(len(replica.calls) for replica in replicas) == [0, 0, 30]
    await rig.infer("s", affinity_key="user-1")
    assert sorted(len(replica.calls) for replica in replicas) == [0, 0, 31]
    await client.send(call(99, affinity_key="x" * 1025))
    result = await client.next()
    assert result.error.reason == R.ERROR_REASON_INVALID_REQUEST
    assert result.error.violations[0].field == "affinityKey"
    await client.finish()


async def test_a_slow_replica_is_overtaken_by_a_second_try(rig: Rig) -> None:
    async def stall(request: ReplicaCall) -> None:
        await request.closed.wait()

    slow, fast = await rig.session("s", stall, echo)
    told = rig.manager.route_of("s")
    told.safe_to_retry = True
    told.hedge_after.FromMilliseconds(30)
    rig.manager.set_route(told)
    await eventually(
        lambda: rig.worker.dispatcher.table.expect("s").hedge_after > 0, "the route has arrived"
    )
    client = rig.exchange("s")
    for number in range(10):
        await client.send(call(number))
        result = await client.next()
        assert not result.HasField("error")
        assert result.replica_id == "s-r1"
    assert slow.calls
    await eventually(lambda: slow.open_connections == 0, "the slow tries were closed")
    assert len(fast.calls) == 10
    await client.finish()
    await rig.idle()
