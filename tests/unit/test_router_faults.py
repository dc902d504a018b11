"""Replicas that fail, are slow, or come and go: set aside, told of, tried twice within a budget."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from podbay.v1 import errors_pb2
from podbay_inference_router.settings import Settings
from podbay_inference_router.tracing import CallTrace
from tests.support.router_fakes import route
from tests.support.router_table import FakeFlight, FakeRouter

R = errors_pb2
HEDGED = Duration(nanos=100_000_000)


def test_a_replica_whose_calls_fail_is_set_aside_told_of_and_tried_again() -> None:
    router = FakeRouter(Settings(failures_in_row=3))
    router.apply(route("s", [1, 2]))
    while not router.reports:
        router.call()
        for flight in [item for upstream in router.upstreams for item in upstream.flights]:
            if flight.upstream.port == 1:
                flight.answer(b"out of memory", 500)
            else:
                flight.answer()
    (report,) = router.reports
    assert (report.session_id, report.replica_id) == ("s", "s-r0")
    assert (report.failures, report.http_status, report.set_aside) == (3, 500, True)
    assert "out of memory" in report.detail
    for _ in range(20):
        router.call()
        router.flight(2).answer()
    assert router.meters.set_asides == 1
    # Back after its pause, by one call.
    router.scheduler.advance(1.1)
    router.endpoint(1).outstanding += 5
    router.call()
    router.call()
    assert [len(upstream.flights) for upstream in router.upstreams] == [1, 1]
    router.flight(1).answer()
    assert router.reports[-1].failures == 0
    assert router.endpoint(0).asides == 0
    router.endpoint(1).outstanding -= 5


def test_the_last_one_goes_on_and_is_told_of() -> None:
    router = FakeRouter(Settings(failures_in_row=3))
    router.apply(route("s", [1]))
    for _ in range(12):
        _, sink = router.call()
        router.flight(1).answer(b"no", 503)
        assert sink.reason == R.ERROR_REASON_REPLICA_REFUSED
    assert [(item.failures, item.set_aside) for item in router.reports] == [
        (3, False),
        (6, False),
        (12, False),
    ]
    assert router.endpoint().asides == 0


def test_refusals_of_requests_are_no_failures() -> None:
    router = FakeRouter(Settings(failures_in_row=2))
    router.apply(route("s", [1, 2]))
    for _ in range(20):
        router.call()
        for upstream in router.upstreams:
            for flight in list(upstream.flights):
                flight.answer(b"no", 422)
    assert router.reports == []
    assert router.meters.set_asides == 0


def test_a_replica_that_breaks_connections_and_answers_garbage_is_set_aside() -> None:
    router = FakeRouter(Settings(failures_in_row=2))
    router.apply(route("s", [1, 2]))
    calls = [router.call() for _ in range(4)]
    flight = router.flight(1)
    flight.connect()
    flight.lose()
    flight = router.flight(1)
    flight.connect()
    flight.call.on_bad_answer("it is not HTTP/1.1")
    assert router.endpoint(0).asides == 1
    assert router.reports[0].http_status == 0
    assert len(calls) == 4


def test_repeats_have_a_budget() -> None:
    router = FakeRouter(Settings(failures_in_row=0))
    router.apply(route("s", [1, 2], safe_to_retry=True))
    lost = 0
    for _ in range(200):
        _, sink = router.call()
        while sink.reason is None:
            flight = next(item for up in router.upstreams for item in up.flights)
            lost += 1
            flight.connect()
            flight.lose()
        assert sink.reason == R.ERROR_REASON_REPLICA_CONNECTION_LOST
    # 200 first tries; a handful, and a tenth of the calls, were repeated.
    assert 225 <= lost <= 230
    assert router.meters.repeats == lost - 200


def hedging(*ports: int) -> FakeRouter:
    router = FakeRouter()
    router.apply(route("s", ports, safe_to_retry=True, hedge_after=HEDGED))
    return router


def flights(router: FakeRouter) -> list[FakeFlight]:
    return [flight for upstream in router.upstreams for flight in upstream.flights]


def test_a_call_without_an_answer_is_tried_at_a_second_replica() -> None:
    router = hedging(1, 2)
    call, sink = router.call()
    (first,) = flights(router)
    first.connect()
    router.scheduler.advance(0.2)
    second = next(item for item in flights(router) if item is not first)
    assert sum(item.outstanding for item in call.session.endpoints) == 2
    second.answer(b'"second"')
    assert sink.pieces == [(b'"second"', "")]
    assert call.replica_id != ""
    assert first.upstream.aborted == 1, "the slow one is told to stop"
    assert router.running == 0
    assert [item.outstanding for item in call.session.endpoints] == [0, 0]
    assert call.session.running == 0
    assert router.scheduler.pending == 0
    assert router.meters.hedges == 1


def test_the_first_answer_is_taken_whoever_gives_it() -> None:
    router = hedging(1, 2)
    _, sink = router.call()
    (first,) = flights(router)
    router.scheduler.advance(0.2)
    second = next(item for item in flights(router) if item is not first)
    first.answer(b'"first"')
    assert sink.pieces == [(b'"first"', "")]
    assert second.upstream.aborted == 1
    assert router.running == 0


def test_a_fast_answer_needs_no_second_try() -> None:
    router = hedging(1, 2)
    router.call()
    flights(router)[0].answer()
    assert router.scheduler.pending == 0
    _, sink = router.call(stream=True)
    flight = flights(router)[0]
    flight.connect()
    flight.call.on_head(200, "text/event-stream", "", "")
    router.scheduler.advance(5)
    assert router.running == 1
    assert sink.reason is None


def test_a_second_try_that_fails_leaves_the_first_alone() -> None:
    for how in ("refuse", "lose", "error"):
        router = hedging(1, 2)
        _, sink = router.call()
        (first,) = flights(router)
        router.scheduler.advance(0.2)
        second = next(item for item in flights(router) if item is not first)
        if how == "refuse":
            second.refuse()
        elif how == "lose":
            second.connect()
            second.lose()
        else:
            second.answer(b"no", 500)
        assert flights(router) == [first]
        first.answer(b"1")
        assert sink.pieces == [(b"1", "")]
        assert router.running == 0


def test_a_first_try_that_fails_leaves_the_second_alone() -> None:
    for how in ("refuse", "lose", "error", "garbage"):
        router = hedging(1, 2)
        call, sink = router.call()
        (first,) = flights(router)
        router.scheduler.advance(0.2)
        second = next(item for item in flights(router) if item is not first)
        if how == "refuse":
            first.refuse()
        elif how == "lose":
            first.connect()
            first.lose()
        elif how == "error":
            first.answer(b"no", 503)
        else:
            first.connect()
            first.end()
            first.call.flight = None
            first.call.on_bad_answer("it is not HTTP/1.1")
        assert flights(router) == [second]
        assert call.flight is second
        second.answer(b"2")
        assert sink.pieces == [(b"2", "")]
        assert call.session.running == 0


def test_a_cancel_reaches_both() -> None:
    router = hedging(1, 2)
    call, sink = router.call()
    router.scheduler.advance(0.2)
    assert router.running == 2
    call.cancel()
    assert sink.reason == R.ERROR_REASON_CANCELLED
    assert router.running == 0
    assert sum(upstream.aborted for upstream in router.upstreams) == 2


def test_second_tries_have_the_same_budget_and_wait_for_nobody() -> None:
    router = hedging(1, 2)
    for _ in range(100):
        router.call()
        router.scheduler.advance(0.2)
        for flight in flights(router):
            if flight in flight.upstream.flights:
                flight.answer()
    assert 10 <= router.meters.hedges <= 20
    alone = hedging(1)
    alone.call()
    alone.scheduler.advance(1)
    assert alone.running == 1, "there is no second replica"


def test_the_time_left_and_the_trace_reach_the_replica() -> None:
    router = FakeRouter()
    router.apply(route("s", [1]))
    call, _ = router.call(timeout=10)
    assert call.head_lines(router.scheduler.now) == b"Podbay-Timeout-Ms: 10000\r\n"
    assert call.head_lines(router.scheduler.now + 7.5) == b"Podbay-Timeout-Ms: 2500\r\n"
    assert call.head_lines(router.scheduler.now + 11) == b"Podbay-Timeout-Ms: 1\r\n"
    call.trace = CallTrace(None, b"traceparent: x\r\n")
    assert call.head_lines(router.scheduler.now + 9).endswith(b"1000\r\ntraceparent: x\r\n")


def test_calls_with_a_key_go_to_one_replica_and_come_back_after_scaling() -> None:
    router = FakeRouter()
    router.apply(route("s", [1, 2, 3, 4]))

    def home(key: str) -> int:
        router.call(affinity=key)
        (flight,) = flights(router)
        flight.answer()
        return flight.upstream.port

    keys = [f"k{number}" for number in range(40)]
    before = {key: home(key) for key in keys}
    assert {key: home(key) for key in keys} == before
    assert len(set(before.values())) == 4
    router.apply(route("s", [1, 2, 3, 4, 5]))
    during = {key: home(key) for key in keys}
    assert all(port in (before[key], 5) for key, port in during.items())
    router.apply(route("s", [1, 2, 3, 4]))
    assert {key: home(key) for key in keys} == before
