"""The ways a call can go, without sockets and without sleep."""

import pytest

from podbay.v1 import errors_pb2
from podbay.v1.session_manager_service_pb2 import ROUTE_STATE_ENDED
from podbay_inference_router.settings import Settings
from tests.support.router_fakes import route
from tests.support.router_table import FakeRouter, ListSink

R = errors_pb2


def test_a_call_is_answered() -> None:
    router = FakeRouter()
    router.apply(route("s", [1]))
    call, sink = router.call()
    assert router.endpoint().outstanding == 1
    router.flight(1).answer(b'{"a":1}')
    assert sink.pieces == [(b'{"a":1}', "")]
    assert sink.reason == 0
    assert call.replica_id == "s-r0"
    assert router.endpoint().outstanding == 0
    assert router.dispatcher.active == 0
    assert router.scheduler.pending == 0


def test_calls_go_where_least_runs() -> None:
    router = FakeRouter()
    router.apply(route("s", [1, 2]))
    for _ in range(6):
        router.call()
    assert [router.endpoint(0).outstanding, router.endpoint(1).outstanding] == [3, 3]


def test_a_limit_makes_calls_wait_in_their_order() -> None:
    router = FakeRouter()
    router.apply(route("s", [1], max_concurrency=1))
    sinks = [router.call()[1] for _ in range(3)]
    assert router.running == 1
    for sink in sinks:
        assert sink.reason is None
        router.flight(1).answer()
        assert sink.reason == 0
    assert router.dispatcher.active == 0


def test_a_full_queue_refuses_at_once() -> None:
    router = FakeRouter()
    router.apply(route("s", [1], max_concurrency=1))
    for _ in range(5):
        assert router.call()[1].reason is None
    _, sink = router.call()
    assert sink.reason == R.ERROR_REASON_QUEUE_FULL
    assert sink.ends[0] is not None
    assert sink.ends[0].not_started
    assert sink.ends[0].HasField("retry_delay")


def test_a_call_waits_no_longer_than_it_may() -> None:
    router = FakeRouter()
    router.apply(route("s", [1], max_concurrency=1))
    router.call()
    _, sink = router.call()
    router.scheduler.advance(9.9)
    assert sink.reason is None
    router.scheduler.advance(0.2)
    assert sink.reason == R.ERROR_REASON_QUEUE_FULL


def test_a_deadline_covers_waiting_and_work() -> None:
    router = FakeRouter()
    router.apply(route("s", [1], max_concurrency=1))
    _, running = router.call(timeout=5)
    _, waiting = router.call(timeout=4)
    router.scheduler.advance(4)
    assert waiting.reason == R.ERROR_REASON_DEADLINE_EXCEEDED
    assert waiting.ends[0] is not None
    assert waiting.ends[0].not_started
    router.flight(1).connect()
    router.scheduler.advance(1)
    assert running.reason == R.ERROR_REASON_DEADLINE_EXCEEDED
    assert running.ends[0] is not None
    assert not running.ends[0].not_started
    assert router.upstreams[0].aborted == 1
    assert router.endpoint().outstanding == 0


def test_no_time_is_too_little() -> None:
    router = FakeRouter()
    router.apply(route("s", [1]))
    assert router.call(timeout=0)[1].reason == R.ERROR_REASON_DEADLINE_EXCEEDED
    assert router.call(timeout=-1)[1].reason == R.ERROR_REASON_DEADLINE_EXCEEDED
    assert router.running == 0


def test_a_cancel_reaches_the_replica_and_lets_the_next_one_in() -> None:
    router = FakeRouter()
    router.apply(route("s", [1], max_concurrency=1))
    running, sink = router.call()
    waiting, waiting_sink = router.call()
    router.call()
    waiting.cancel()
    assert waiting_sink.reason == R.ERROR_REASON_CANCELLED
    router.flight(1).connect()
    running.cancel()
    running.cancel()
    assert sink.reason == R.ERROR_REASON_CANCELLED
    assert router.upstreams[0].aborted == 1
    assert router.running == 1


def test_a_session_that_was_never_ready_is_refused_at_once() -> None:
    router = FakeRouter()
    router.apply(route("s", message="exit code 3.", evidence={"exitCode": "3"}))
    _, sink = router.call()
    assert sink.reason == R.ERROR_REASON_SESSION_NOT_READY
    error = sink.ends[0]
    assert error is not None
    assert error.metadata["exitCode"] == "3"
    assert "exit code 3. Try again" in error.message


def test_a_call_that_comes_just_before_the_route_is_served() -> None:
    router = FakeRouter()
    _, unknown = router.call("s")
    router.scheduler.advance(0.5)
    router.apply(route("s", [1]))
    router.flight(1).answer()
    assert unknown.reason == 0


def test_an_impatient_caller_hears_why_a_session_is_not_ready() -> None:
    router = FakeRouter()
    router.apply(route("s", [1]))
    router.apply(route("s", message="the replica was killed"))
    _, sink = router.call(timeout=0.2)
    assert sink.reason is None
    router.scheduler.advance(0.2)
    assert sink.reason == R.ERROR_REASON_SESSION_NOT_READY


def test_a_session_that_nobody_knows_is_not_found_and_leaves_nothing() -> None:
    router = FakeRouter()
    _, sink = router.call("nobody")
    router.scheduler.advance(1)
    assert sink.reason == R.ERROR_REASON_INFERENCE_SESSION_NOT_FOUND
    assert len(router.table) == 0
    immediate = FakeRouter(Settings(settle_seconds=0))
    assert immediate.call("nobody")[1].reason == R.ERROR_REASON_INFERENCE_SESSION_NOT_FOUND
    assert len(immediate.table) == 0


def test_a_session_whose_replica_is_replaced_holds_its_calls() -> None:
    router = FakeRouter()
    router.apply(route("s", [1]))
    router.scheduler.advance(100)
    router.apply(route("s"))
    _, sink = router.call()
    router.scheduler.advance(8)
    assert sink.reason is None
    router.apply(route("s", [2]))
    router.flight(2).answer()
    assert sink.reason == 0


@pytest.mark.parametrize("removed", [False, True])
def test_the_end_of_a_session_ends_what_waits(removed: bool) -> None:
    router = FakeRouter()
    router.apply(route("s", [1], max_concurrency=1))
    _, running = router.call()
    _, waiting = router.call()
    if removed:
        router.apply(removed=("s",))
        assert waiting.reason == R.ERROR_REASON_INFERENCE_SESSION_NOT_FOUND
    else:
        router.apply(
            route("s", state=ROUTE_STATE_ENDED, ended_reason=R.ERROR_REASON_SESSION_EXPIRED)
        )
        assert waiting.reason == R.ERROR_REASON_SESSION_EXPIRED
        assert router.call()[1].reason == R.ERROR_REASON_SESSION_EXPIRED
    router.flight(1).answer()
    assert running.reason == 0
    assert router.dispatcher.active == 0


def test_a_call_that_loses_its_replica_to_the_end_of_the_session_hears_that() -> None:
    router = FakeRouter()
    router.apply(route("s", [1]))
    _, sink = router.call()
    router.flight(1).connect()
    router.apply(
        route("s", state=ROUTE_STATE_ENDED, ended_reason=R.ERROR_REASON_SESSION_TERMINATED)
    )
    router.flight(1).lose()
    assert sink.reason == R.ERROR_REASON_SESSION_TERMINATED
    assert sink.ends[0] is not None
    assert not sink.ends[0].not_started


def test_the_expiry_is_kept_without_the_session_manager() -> None:
    router = FakeRouter()
    told = route("s", [1])
    told.expires.seconds = 5010
    router.apply(told)
    router.call()
    router.wall = 5010.0
    assert router.call()[1].reason == R.ERROR_REASON_SESSION_EXPIRED


def test_a_token_of_an_earlier_epoch_is_refused_also_while_it_waits() -> None:
    router = FakeRouter()
    router.apply(route("s", [1], max_concurrency=1))
    router.call()
    _, waiting = router.call(epoch=1)
    router.apply(route("s", [1], max_concurrency=1, epoch=2))
    assert waiting.reason == R.ERROR_REASON_TOKEN_REVOKED
    assert router.call(epoch=1)[1].reason == R.ERROR_REASON_TOKEN_REVOKED
    assert router.call(epoch=2)[1].reason is None


def test_a_refused_connection_moves_the_call_to_another_replica() -> None:
    router = FakeRouter()
    router.apply(route("s", [1, 2]))
    _, sink = router.call()
    router.flight(1).refuse()
    router.flight(2).answer()
    assert sink.reason == 0
    assert router.endpoint(0).failures == 1
    assert router.endpoint(0).outstanding == 0
    router.call()
    assert router.flight(2).upstream.port == 2


def test_a_replica_that_refuses_is_tried_again_by_one_call() -> None:
    router = FakeRouter()
    router.apply(route("s", [1]))
    sinks = [router.call()[1] for _ in range(3)]
    for _ in sinks:
        router.flight(1).refuse()
    assert router.running == 0
    router.scheduler.advance(5)
    assert router.running == 1
    router.flight(1).refuse()
    assert router.running == 0
    router.scheduler.advance(3)
    assert router.running == 1
    router.flight(1).connect()
    assert router.running == 3
    for _ in sinks:
        router.flight(1).answer()
    assert [sink.reason for sink in sinks] == [0, 0, 0]
    assert router.dispatcher.active == 0


def test_replicas_that_refuse_for_too_long_are_unreachable() -> None:
    router = FakeRouter()
    router.apply(route("s", [1]))
    _, sink = router.call()
    for _ in range(40):
        if router.running:
            router.flight(1).refuse()
        router.scheduler.advance(0.5)
    assert sink.reason == R.ERROR_REASON_REPLICA_UNREACHABLE
    error = sink.ends[0]
    assert error is not None
    assert error.not_started
    assert error.metadata["replica"] == "s-r0"
    assert "refused" in error.message


def test_a_router_without_files_blames_no_replica() -> None:
    router = FakeRouter()
    router.apply(route("s", [1, 2]))
    for _ in range(10):
        _, sink = router.call()
        router.flight(1).lack_files()
        assert sink.reason == R.ERROR_REASON_ROUTER_OUT_OF_FILES
        error = sink.ends[0]
        assert error is not None
        assert (error.not_started, error.metadata["limit"]) == (True, "128")
        assert error.HasField("retry_delay")
    for number in (0, 1):
        endpoint = router.endpoint(number)
        assert (endpoint.failures, endpoint.strikes, endpoint.asides) == (0, 0, 0)
        assert endpoint.outstanding == 0
    _, sink = router.call()
    router.flight(1).answer()
    assert sink.reason == 0
    assert router.dispatcher.active == 0


def test_a_lost_connection_is_not_repeated() -> None:
    router = FakeRouter()
    router.apply(route("s", [1, 2]))
    _, sink = router.call()
    router.flight(1).connect()
    router.flight(1).lose()
    assert sink.reason == R.ERROR_REASON_REPLICA_CONNECTION_LOST
    assert router.running == 0


def test_a_lost_connection_is_repeated_once_where_that_is_safe() -> None:
    router = FakeRouter()
    router.apply(route("s", [1, 2], safe_to_retry=True))
    _, sink = router.call()
    router.flight(1).connect()
    router.flight(1).lose()
    router.flight(2).connect()
    router.flight(2).lose()
    assert sink.reason == R.ERROR_REASON_REPLICA_CONNECTION_LOST
    assert router.running == 0
    assert router.dispatcher.active == 0


def test_a_safe_repeat_uses_the_same_replica_where_there_is_no_other() -> None:
    router = FakeRouter()
    router.apply(route("s", [1], safe_to_retry=True))
    _, sink = router.call()
    router.flight(1).connect()
    router.flight(1).lose()
    router.flight(1).answer()
    assert sink.reason == 0


def test_nothing_is_repeated_after_the_first_byte() -> None:
    router = FakeRouter()
    router.apply(route("s", [1, 2], safe_to_retry=True))
    _, sink = router.call()
    flight = router.flight(1)
    flight.connect()
    flight.answering = True
    flight.lose()
    assert sink.reason == R.ERROR_REASON_REPLICA_CONNECTION_LOST


def test_pieces_come_as_they_are_sent_or_together() -> None:
    router = FakeRouter()
    router.apply(route("s", [1, 2]))
    _, streamed = router.call(stream=True)
    _, whole = router.call()
    for port in (1, 2):
        flight = router.flight(port)
        flight.connect()
        flight.call.on_head(200, "text/event-stream", "", "")
        flight.call.on_body(b"data: 1\n\n")
    assert streamed.pieces == [(b"1", "")]
    assert whole.pieces == []
    for port in (1, 2):
        flight = router.flight(port)
        flight.call.on_body(b"data: 2\n\n")
        flight.end()
        flight.call.on_end()
    assert streamed.pieces == whole.pieces == [(b"1", ""), (b"2", "")]
    assert streamed.reason == whole.reason == 0


def test_a_slow_caller_makes_the_replica_wait() -> None:
    router = FakeRouter()
    router.apply(route("s", [1]))
    sink = ListSink()
    call, _ = router.call(stream=True, sink=sink)
    flight = router.flight(1)
    flight.connect()
    flight.call.on_head(200, "text/event-stream", "", "")
    flight.call.on_body(b"data: 1\n\n")
    assert not flight.paused
    sink.paused = True
    flight.call.on_body(b"data: 2\n\n")
    assert flight.paused
    call.resume()
    assert not flight.paused


def test_an_answer_that_said_done_does_not_wait_for_its_end() -> None:
    router = FakeRouter()
    router.apply(route("s", [1]))
    _, sink = router.call(stream=True)
    flight = router.flight(1)
    flight.connect()
    flight.call.on_head(200, "text/event-stream", "", "")
    flight.call.on_body(b"data: 1\n\ndata: [DONE]\n\n")
    assert sink.reason is None
    router.scheduler.advance(2)
    assert sink.reason == 0
    assert router.running == 0


def test_an_answer_above_the_limit_is_refused() -> None:
    router = FakeRouter(Settings(max_answer_bytes=10))
    router.apply(route("s", [1]))
    _, sink = router.call()
    flight = router.flight(1)
    flight.connect()
    flight.call.on_head(200, "application/jsonl", "", "")
    flight.call.on_body(b"123456\n")
    flight.call.on_body(b"123456\n")
    assert sink.reason == R.ERROR_REASON_REPLICA_BAD_ANSWER
    assert router.running == 0


def test_a_refusal_that_never_ends_is_cut_off() -> None:
    router = FakeRouter(Settings(max_error_bytes=10))
    router.apply(route("s", [1]))
    _, sink = router.call()
    flight = router.flight(1)
    flight.connect()
    flight.call.on_head(500, "text/plain", "", "")
    flight.call.on_body(b"x" * 11)
    assert sink.reason == R.ERROR_REASON_REPLICA_REFUSED
    assert router.running == 0


def test_a_refusal_that_breaks_off_tells_its_status() -> None:
    router = FakeRouter()
    router.apply(route("s", [1]))
    _, sink = router.call()
    flight = router.flight(1)
    flight.connect()
    flight.call.on_head(413, "text/plain", "", "")
    flight.call.on_body(b"too lar")
    flight.end()
    flight.call.on_lost(answering=True)
    (error,) = sink.ends
    assert error is not None
    assert error.metadata["httpStatus"] == "413"
    assert error.metadata["detail"] == "too lar"


def test_an_endpoint_that_goes_keeps_its_running_calls() -> None:
    router = FakeRouter()
    router.apply(route("s", [1]))
    _, sink = router.call()
    gone = router.endpoint()
    router.apply(route("s", [2]))
    router.flight(1).answer()
    assert sink.reason == 0
    assert gone.outstanding == 0
    router.call()
    assert router.flight(2).upstream.port == 2


def test_a_draining_router_finishes_what_runs_and_refuses_the_rest() -> None:
    router = FakeRouter()
    router.apply(route("s", [1], max_concurrency=1))
    _, running = router.call()
    _, waiting = router.call()
    router.dispatcher.drain()
    assert waiting.reason == R.ERROR_REASON_ROUTER_DRAINING
    _, new = router.call()
    assert new.reason == R.ERROR_REASON_ROUTER_DRAINING
    assert new.ends[0] is not None
    assert new.ends[0].not_started
    router.flight(1).answer()
    assert running.reason == 0
    assert router.dispatcher.active == 0
