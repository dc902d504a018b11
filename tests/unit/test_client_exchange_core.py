"""The state of an Exchange client, without a stream."""

from __future__ import annotations

import grpc
import pytest

from podbay._core.exchange import Call, CallState, ExchangeCore, Stream
from podbay.errors import PodbayError, error_for
from podbay.v1 import errors_pb2
from podbay.v1 import inference_router_service_pb2 as wire
from tests.support.fake_router import reason_number


def call(body: bytes | wire.FileUpload = b"{}", deadline: float = 100.0) -> Call:
    return Call("generate", body, stream=False, deadline=deadline)


def failure(call_id: int, reason: str, *, not_started: bool = True) -> wire.CallResult:
    error = errors_pb2.CallError(
        code=grpc.StatusCode.UNAVAILABLE.value[0],
        reason=reason_number(reason),
        message="m",
        not_started=not_started,
    )
    return wire.CallResult(id=call_id, done=True, error=error)


def opened(core: ExchangeCore, *calls: Call) -> Stream:
    """Open a stream and send the calls on it."""
    for one in calls:
        core.submit(one)
    stream = core.open()
    core.next_batch(stream, 0.0)
    return stream


def test_everything_that_is_queued_goes_into_one_message() -> None:
    core = ExchangeCore()
    assert not core.wants_stream
    calls = [call(b"%d" % n) for n in range(5)]
    upload = wire.FileUpload(name="file", filename="f", content_type="a/b", content=b"\0")
    calls.append(call(upload, deadline=12.25))
    for one in calls:
        core.submit(one)
    assert core.wants_stream
    stream = core.open()
    batch = core.next_batch(stream, 10.0)
    assert batch is not None
    assert [c.json for c in batch.calls[:5]] == [b"0", b"1", b"2", b"3", b"4"]
    assert batch.calls[5].file_upload == upload
    assert batch.calls[5].timeout.ToMilliseconds() == 2250
    assert len({c.id for c in batch.calls}) == 6
    assert core.next_batch(stream, 10.0) is None


def test_messages_are_bounded_and_a_large_call_goes_alone() -> None:
    core = ExchangeCore(max_batch_bytes=1000)
    for size in (400, 400, 400, 5000, 10):
        core.submit(call(b"x" * size))
    stream = core.open()
    batches = []
    while (batch := core.next_batch(stream, 0.0)) is not None:
        batches.append([len(c.json) for c in batch.calls])
    assert batches == [[400, 400], [400], [5000], [10]]


def test_calls_in_flight_are_bounded() -> None:
    core = ExchangeCore(max_in_flight=2)
    calls = [call() for _ in range(3)]
    stream = opened(core, *calls)
    assert [c.state for c in calls] == [CallState.SENT, CallState.SENT, CallState.QUEUED]
    assert not core.has_work(stream)
    assert core.timeout_error(calls[2], 1.0).reason == "DEADLINE_EXCEEDED"
    core.receive(
        stream, wire.ExchangeResponse(results=[wire.CallResult(id=calls[0].id, done=True)])
    )
    assert core.has_work(stream)
    batch = core.next_batch(stream, 0.0)
    assert batch is not None
    assert len(batch.calls) == 1


def test_a_late_call_is_sent_with_a_timeout_above_zero() -> None:
    core = ExchangeCore()
    core.submit(call(deadline=1.0))
    batch = core.next_batch(core.open(), 5.0)
    assert batch is not None
    assert batch.calls[0].timeout.ToMilliseconds() == 1


def test_results_go_to_their_calls() -> None:
    core = ExchangeCore()
    first, second = call(), call()
    stream = opened(core, first, second)
    response = wire.ExchangeResponse(
        results=[
            wire.CallResult(id=second.id, items=[wire.Item(json=b"1")]),
            wire.CallResult(id=12345, done=True),
            failure(first.id, "QUEUE_FULL"),
            wire.CallResult(id=second.id, items=[wire.Item(json=b"2")], done=True),
        ]
    )
    deliveries = core.receive(stream, response)
    assert [(d[0], [i.json for i in d[1]], d[2]) for d in deliveries] == [
        (second, [b"1"], False),
        (first, [], True),
        (second, [b"2"], True),
    ]
    assert deliveries[1][3] is not None
    assert deliveries[1][3].reason == "QUEUE_FULL"
    assert first.state is second.state is CallState.DONE
    assert not stream.sent


def test_a_queued_call_is_cancelled_here_and_a_sent_one_at_the_router() -> None:
    core = ExchangeCore()
    sent, queued = call(), call()
    stream = opened(core, sent)
    core.submit(queued)
    assert core.cancel(queued) is False
    assert core.cancel(sent) is True
    assert core.cancel(sent) is False
    batch = core.next_batch(stream, 0.0)
    assert batch is not None
    assert (list(batch.cancels), len(batch.calls)) == ([sent.id], 0)
    # Its id stays in use until the router has answered; nobody gets the answer.
    assert (
        core.receive(stream, wire.ExchangeResponse(results=[failure(sent.id, "CANCELLED")])) == []
    )
    assert not stream.sent
    assert not core.wants_stream


def test_a_lost_stream_fails_what_was_sent_and_keeps_what_was_not() -> None:
    core = ExchangeCore(address="h:1", max_in_flight=1)
    sent, queued, cancelled = call(), call(), call()
    stream = opened(core, sent, queued, cancelled)
    core.cancel(cancelled)
    lost = error_for("CONNECTION_LOST", "m", metadata={"grpcCode": "UNAVAILABLE"})
    ((owner, items, done, error),) = core.end(stream, lost)
    assert (owner, list(items), done) == (sent, [], True)
    assert error is not None
    assert error.reason == "CONNECTION_LOST"
    assert "in flight" in error.message
    assert "h:1" in error.message
    assert core.timeout_error(queued, 1.0).reason == "SERVICE_UNREACHABLE"
    assert core.wants_stream
    again = core.open()
    batch = core.next_batch(again, 0.0)
    assert batch is not None
    assert [c.id for c in batch.calls] == [queued.id]


def test_every_caller_gets_an_error_of_its_own() -> None:
    core = ExchangeCore()
    calls = [call(), call()]
    stream = opened(core, *calls)
    refused = error_for("TOKEN_REVOKED", "Revoked.")
    deliveries = core.end(stream, refused)
    gotten = [d[3] for d in deliveries]
    assert [e.reason for e in gotten if e is not None] == ["TOKEN_REVOKED"] * 2
    assert gotten[0] is not gotten[1]


@pytest.mark.parametrize("reason", ["ROUTER_DRAINING", "ROUTER_NOT_SYNCED", "SERVICE_STOPPING"])
def test_what_was_not_begun_goes_again_in_its_old_order(reason: str) -> None:
    core = ExchangeCore()
    calls = [call(), call(), call()]
    stream = opened(core, *calls)
    later = call()
    core.submit(later)
    response = wire.ExchangeResponse(results=[failure(c.id, reason) for c in calls])
    assert core.receive(stream, response) == []
    assert core.current is None
    assert 0.05 <= core.reopen_delay(1.0) <= 0.1
    again = core.open()
    core.next_batch(again, 0.0)
    assert list(again.sent.values()) == [*calls, later]


def test_what_was_begun_does_not_go_again() -> None:
    core = ExchangeCore()
    one = call()
    stream = opened(core, one)
    result = failure(one.id, "SERVICE_STOPPING", not_started=False)
    ((_, _, done, error),) = core.receive(stream, wire.ExchangeResponse(results=[result]))
    assert done
    assert error is not None


def test_a_refused_stream_that_was_not_begun_goes_again() -> None:
    core = ExchangeCore()
    one = call()
    stream = opened(core, one)
    assert core.end(stream, error_for("ROUTER_NOT_SYNCED", "m", not_started=True)) == []
    assert core.wants_stream


def test_draining_lets_old_calls_finish_and_moves_new_ones() -> None:
    core = ExchangeCore()
    old, new = call(), call()
    stream = opened(core, old)
    core.receive(stream, wire.ExchangeResponse(draining=True))
    core.submit(new)
    assert core.wants_stream
    assert core.next_batch(stream, 0.0) is None
    assert not stream.finished
    second = core.open()
    core.next_batch(second, 0.0)
    assert new.carrier is second
    done = wire.ExchangeResponse(results=[wire.CallResult(id=old.id, done=True)])
    assert [d[0] for d in core.receive(stream, done)] == [old]
    assert stream.finished
    assert core.end(stream, None) == []
    assert core.current is second


def test_streams_are_opened_more_slowly_while_none_is_good() -> None:
    core = ExchangeCore()
    delays = []
    for _ in range(4):
        stream = opened(core, call())
        core.end(stream, error_for("TOKEN_INVALID", "m"))
        delays.append(core.reopen_delay(1.0))
    assert delays == [0.1, 0.2, 0.4, 0.8]
    one = call()
    stream = opened(core, one)
    core.receive(stream, wire.ExchangeResponse(results=[wire.CallResult(id=one.id, done=True)]))
    core.end(stream, None)
    assert core.reopen_delay(1.0) == 0.0


def expire(core: ExchangeCore, stream: Stream, *calls: Call) -> list[PodbayError | None]:
    results = [failure(c.id, "TOKEN_EXPIRED") for c in calls]
    return [d[3] for d in core.receive(stream, wire.ExchangeResponse(results=results))]


def test_an_expired_token_is_replaced_once_until_a_call_goes_well() -> None:
    core = ExchangeCore(can_refresh=True)
    first, second = call(), call()
    stream = opened(core, first, second)
    assert expire(core, stream, first) == []
    assert core.needs_token
    core.token_replaced()
    # The rest of the old stream's answers ask for no further token.
    assert expire(core, stream, second) == []
    assert not core.needs_token
    stream = core.open()
    core.next_batch(stream, 0.0)
    (error,) = expire(core, stream, first)
    assert error is not None
    assert error.reason == "TOKEN_EXPIRED"
    core.receive(stream, wire.ExchangeResponse(results=[wire.CallResult(id=second.id, done=True)]))
    third = call()
    core.submit(third)
    core.next_batch(stream, 0.0)
    assert expire(core, stream, third) == []
    assert core.needs_token


def test_a_token_that_cannot_be_replaced_is_an_error() -> None:
    core = ExchangeCore()
    one = call()
    (error,) = expire(core, opened(core, one), one)
    assert error is not None
    assert error.reason == "TOKEN_EXPIRED"


def test_a_stream_refused_for_its_token_begins_nothing() -> None:
    core = ExchangeCore(can_refresh=True)
    stream = opened(core, call())
    assert core.end(stream, error_for("TOKEN_EXPIRED", "m")) == []
    assert core.needs_token
    assert core.wants_stream
    assert core.reopen_delay(1.0) == 0.0


def test_close_cancels_everything() -> None:
    core = ExchangeCore(max_in_flight=1)
    sent, queued = call(), call()
    stream = opened(core, sent, queued)
    deliveries = core.close([stream])
    assert {d[0] for d in deliveries} == {sent, queued}
    assert all(d[2] and d[3] is not None and d[3].reason == "CANCELLED" for d in deliveries)
    assert stream.finished
    assert not core.wants_stream


def test_what_a_draining_router_left_unanswered_at_a_clean_end_goes_again() -> None:
    core = ExchangeCore()
    begun, late = call(b"1"), call(b"2")
    stream = opened(core, begun, late)
    core.receive(stream, wire.ExchangeResponse(draining=True))
    done = wire.CallResult(id=begun.id, items=[wire.Item(json=b"1")], done=True)
    core.receive(stream, wire.ExchangeResponse(results=[done]))
    assert core.end(stream, None) == []
    assert late.state is CallState.QUEUED
    batch = core.next_batch(core.open(), 0.0)
    assert batch is not None
    assert [item.json for item in batch.calls] == [b"2"]


def test_a_clean_end_without_a_word_says_nothing_of_what_was_begun() -> None:
    core = ExchangeCore()
    one = call()
    stream = opened(core, one)
    ((_, _, _, error),) = core.end(stream, None)
    assert error is not None
    assert error.reason == "CONNECTION_LOST"


def streamed(core: ExchangeCore) -> tuple[Call, Stream]:
    one = Call("generate", b"{}", stream=True, deadline=100.0)
    return one, opened(core, one)


def piece(one: Call, size: int, *, done: bool = False) -> wire.ExchangeResponse:
    item = wire.Item(json=b"x" * size)
    return wire.ExchangeResponse(results=[wire.CallResult(id=one.id, items=[item], done=done)])


def test_a_caller_that_does_not_read_pauses_its_call_until_it_has_read() -> None:
    core = ExchangeCore()
    one, stream = streamed(core)
    parts = []
    for _ in range(3):
        ((_, items, _, _),) = core.receive(stream, piece(one, 600_000))
        parts.append(items)
    assert core.has_work(stream)
    batch = core.next_batch(stream, 0.0)
    assert batch is not None
    assert (list(batch.pauses), list(batch.resumes)) == ([one.id], [])
    assert core.next_batch(stream, 0.0) is None, "it is said once"
    assert not core.taken(one, parts[0])
    assert not core.taken(one, parts[1])
    assert core.taken(one, parts[2])
    batch = core.next_batch(stream, 0.0)
    assert batch is not None
    assert (list(batch.pauses), list(batch.resumes)) == ([], [one.id])
    assert one.unread == 0


def test_only_the_last_word_on_a_call_is_said() -> None:
    core = ExchangeCore()
    one, stream = streamed(core)
    ((_, items, _, _),) = core.receive(stream, piece(one, 2_000_000))
    assert core.taken(one, items)
    batch = core.next_batch(stream, 0.0)
    assert batch is not None
    assert (list(batch.pauses), list(batch.resumes)) == ([], [one.id])


def test_a_call_that_is_over_is_not_resumed() -> None:
    core = ExchangeCore()
    one, stream = streamed(core)
    ((_, first, _, _),) = core.receive(stream, piece(one, 2_000_000))
    core.next_batch(stream, 0.0)
    ((_, last, _, _),) = core.receive(stream, piece(one, 10, done=True))
    assert not core.taken(one, first)
    assert not core.taken(one, last)
    assert core.next_batch(stream, 0.0) is None


def test_a_key_and_a_trace_travel_with_the_call() -> None:
    core = ExchangeCore()
    one = call()
    one.affinity, one.trace = "user-1", ("00-parent", "vendor=1")
    core.submit(one)
    batch = core.next_batch(core.open(), 0.0)
    assert batch is not None
    (sent,) = batch.calls
    assert (sent.affinity_key, sent.traceparent, sent.tracestate) == (
        "user-1",
        "00-parent",
        "vendor=1",
    )
