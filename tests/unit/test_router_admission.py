"""Limits of sessions and accounts, who waits and who is refused, and what the refusal says."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from podbay.v1 import errors_pb2
from podbay_inference_router.settings import Settings
from tests.support.router_fakes import route
from tests.support.router_table import FakeRouter, ListSink

R = errors_pb2


def delay_of(sink: ListSink) -> float:
    error = sink.ends[0]
    assert error is not None
    assert error.HasField("retry_delay")
    return error.retry_delay.seconds + error.retry_delay.nanos * 1e-9


def saturate(router: FakeRouter, calls: int, seconds: float) -> None:
    """Answer calls one after the other, each after some seconds, while others wait."""
    for _ in range(calls):
        router.scheduler.advance(seconds)
        router.flight(1).answer()


def test_a_refusal_tells_the_measured_delay() -> None:
    router = FakeRouter(Settings(queue_length=40, queue_timeout=100))
    router.apply(route("s", [1], max_concurrency=1))
    for _ in range(41):
        router.call()
    assert delay_of(router.call()[1]) == 1.0, "nothing was measured yet"
    saturate(router, 20, 0.25)
    for _ in range(20):
        router.call()
    _, refused = router.call()
    assert refused.reason == R.ERROR_REASON_QUEUE_FULL
    assert 9.0 < delay_of(refused) < 11.0  # 40 calls at 4 a second


def test_a_call_that_cannot_make_it_is_refused_before_it_costs_anything() -> None:
    router = FakeRouter(Settings(queue_length=40, queue_timeout=100))
    router.apply(route("s", [1], max_concurrency=1))
    for _ in range(30):
        router.call()
    saturate(router, 10, 0.5)
    sent = len(router.upstreams[0].flights)
    _, late = router.call(timeout=5.0)  # 19 wait before it, at 2 a second
    error = late.ends[0]
    assert error is not None
    assert error.reason == R.ERROR_REASON_DEADLINE_EXCEEDED
    assert error.not_started
    assert 9.0 < float(error.metadata["expectedWait"]) < 11.5
    assert len(router.upstreams[0].flights) == sent
    _, patient = router.call(timeout=60.0)
    assert patient.reason is None


def test_a_service_sets_the_length_and_the_time_of_its_queue() -> None:
    router = FakeRouter(Settings(queue_length=9, queue_timeout=9))
    told = route("s", [1], max_concurrency=1, queue_length=1, queue_timeout=Duration(seconds=2))
    router.apply(told)
    router.call()
    _, waiting = router.call()
    assert router.call()[1].reason == R.ERROR_REASON_QUEUE_FULL
    router.scheduler.advance(2.1)
    assert waiting.reason == R.ERROR_REASON_QUEUE_FULL
    none = FakeRouter(Settings(queue_length=9, queue_timeout=9))
    none.apply(route("s", [1], max_concurrency=1, queue_length=0))
    none.call()
    assert none.call()[1].reason == R.ERROR_REASON_QUEUE_FULL, "0 is a length"


def test_a_session_has_a_limit_over_all_its_replicas() -> None:
    router = FakeRouter()
    router.apply(route("s", [1, 2, 3], max_in_flight=2))
    sinks = [router.call()[1] for _ in range(4)]
    assert router.running == 2
    for port in (1, 2, 3):
        if router.upstreams[port - 1].flights:
            router.flight(port).answer()
            break
    assert router.running == 2
    assert [sink.reason for sink in sinks].count(0) == 1
    # A limit of all is divided among the workers.
    worker = FakeRouter(Settings(workers=2, worker_index=1))
    worker.apply(route("s", [1, 2, 3], max_in_flight=3))
    worker.call(), worker.call()
    assert worker.running == 1


def test_two_accounts_share_a_full_session() -> None:
    router = FakeRouter(Settings(queue_length=100, queue_timeout=100))
    router.apply(route("s", [1], max_concurrency=4))
    greedy = [router.call(account="greedy")[1] for _ in range(60)]
    modest = [router.call(account="modest")[1] for _ in range(10)]
    for _ in range(24):
        router.flight(1).answer()
    assert [sink.reason for sink in modest].count(0) == 10
    assert [sink.reason for sink in greedy].count(0) == 14


def test_an_account_cannot_shut_others_out_by_filling_the_queue() -> None:
    router = FakeRouter(Settings(queue_length=4, queue_timeout=100))
    router.apply(route("s", [1], max_concurrency=1))
    greedy = [router.call(account="greedy")[1] for _ in range(5)]
    assert router.call(account="greedy")[1].reason == R.ERROR_REASON_QUEUE_FULL
    first = router.call(account="modest")[1]
    second = router.call(account="modest")[1]
    assert (first.reason, second.reason) == (None, None)
    # The newest of the greedy one gave their places, each with the reason.
    assert [sink.reason for sink in greedy] == [None] * 3 + [R.ERROR_REASON_QUEUE_FULL] * 2
    error = greedy[4].ends[0]
    assert error is not None
    assert error.metadata["account"] == "greedy"
    assert error.not_started
    assert router.call(account="modest")[1].reason == R.ERROR_REASON_QUEUE_FULL


def test_an_account_has_a_limit_over_all_its_sessions() -> None:
    settings = Settings(account_in_flight=2, account_queue_length=2, account_queue_timeout=5)
    router = FakeRouter(settings)
    router.apply(route("s", [1]), route("t", [2]))
    running = [router.call("s", account="one")[1], router.call("t", account="one")[1]]
    waiting = [router.call("s", account="one")[1], router.call("t", account="one")[1]]
    assert router.running == 2
    _, refused = router.call("t", account="one")
    error = refused.ends[0]
    assert error is not None
    assert error.reason == R.ERROR_REASON_ACCOUNT_LIMIT
    assert (error.metadata["running"], error.metadata["waiting"]) == ("2", "2")
    assert error.not_started
    assert delay_of(refused) > 0
    # Others go past those who wait for themselves only.
    _, other = router.call("s", account="two")
    assert router.running == 3
    # What ends in one session lets the account's call in the other one go.
    router.flight(2).answer()
    assert running[1].reason == 0
    assert router.running == 3
    assert len([sink for sink in waiting if sink.reason is None]) == 2
    router.scheduler.advance(5.1)
    late = [sink for sink in waiting if sink.reason is not None]
    assert [sink.reason for sink in late] == [R.ERROR_REASON_ACCOUNT_LIMIT]
    assert other.reason is None


def test_an_accounts_limit_is_divided_among_the_workers_and_its_queue_is_not() -> None:
    settings = Settings(account_in_flight=3, account_queue_length=2, workers=2, worker_index=1)
    worker = FakeRouter(settings)
    worker.apply(route("s", [1]))
    sinks = [worker.call("s", account="one")[1] for _ in range(4)]
    assert worker.running == 1
    assert [sink.reason for sink in sinks] == [None, None, None, R.ERROR_REASON_ACCOUNT_LIMIT]


def test_a_session_without_calls_keeps_no_account() -> None:
    router = FakeRouter()
    router.apply(route("s", [1]))
    router.call(account="gone")
    router.flight(1).answer()
    router.apply(removed=("s",))
    assert router.dispatcher.account("gone").running == 0


def test_the_quota_of_an_account_holds_over_all_its_sessions() -> None:
    router = FakeRouter(Settings(queue_length=9, queue_timeout=5))
    router.apply(route("s", [1]), route("t", [2]), limits={"one": 2})
    running = [router.call("s", account="one")[1], router.call("t", account="one")[1]]
    _, waiting = router.call("t", account="one")
    assert router.running == 2
    _, other = router.call("t", account="two")
    assert (router.running, other.reason) == (3, None)
    router.flight(1).answer()
    assert running[0].reason == 0
    assert router.running == 3
    _, late = router.call("s", account="one")
    router.scheduler.advance(5.1)
    error = late.ends[0]
    assert error is not None
    assert error.reason == R.ERROR_REASON_ACCOUNT_LIMIT
    assert error.metadata["limit"] == "2"
    assert "podbay account quota show one" in error.message
    assert delay_of(late) > 0
    assert waiting.reason is None


def test_a_quota_of_an_account_may_change_while_its_calls_run() -> None:
    router = FakeRouter(Settings(queue_length=9, queue_timeout=50))
    router.apply(route("s", [1]))
    for _ in range(4):
        router.call(account="one")
    router.apply(limits={"one": 1})
    assert router.running == 4, "what runs goes on"
    router.call(account="one")
    router.call(account="one")
    for _ in range(3):
        router.flight(1).answer()
    assert router.running == 1
    router.flight(1).answer()
    assert router.running == 1, "one of those that wait"
    router.apply(limits={"one": None})
    assert router.running == 2
    router.apply(limits={"one": 0})
    for _ in range(2):
        router.flight(1).answer()
    _, kept = router.call(account="one")
    assert (router.running, kept.reason) == (0, None)
    # A snapshot that does not name the account lifts its limit.
    router.apply(route("s", [1]), snapshot=True)
    assert router.running == 1
