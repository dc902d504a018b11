"""What is kept of calls that failed."""

from __future__ import annotations

from podbay.v1 import errors_pb2
from podbay.v1.session_manager_service_pb2 import FailedCalls as Told
from podbay_session_manager.call_failures import CallFailures
from podbay_session_manager.router_usage import RouterUsage

FULL = errors_pb2.ERROR_REASON_QUEUE_FULL
LATE = errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED


def told(
    session: str = "s",
    reason: errors_pb2.ErrorReason.ValueType = FULL,
    *,
    count: int = 1,
    ages: tuple[float, float] = (0.0, 0.0),
    message: str = "m",
) -> Told:
    made = Told(session_id=session, reason=reason, count=count, message=message)
    made.first_age.FromMilliseconds(round(ages[0] * 1000))
    made.last_age.FromMilliseconds(round(ages[1] * 1000))
    return made


def test_counts_grow_and_the_last_one_is_what_is_told() -> None:
    kept = CallFailures()
    kept.take(told(count=2, ages=(3, 1), message="first"), 1000.0, 10.0)
    kept.take(told(count=5, ages=(2, 0), message="second"), 1002.0, 12.0)
    # Another router was slower to tell.
    kept.take(told(count=1, ages=(9, 9), message="late"), 1003.0, 13.0)
    kept.take(told(reason=LATE, ages=(0, 0)), 1005.0, 15.0)
    late, full = kept.of("s", 15.0)
    assert late.reason == LATE
    assert (full.count, full.first, full.last, full.message) == (8, 994.0, 1002.0, "second")
    assert kept.of("t", 15.0) == []


def test_what_is_told_without_a_count_or_from_the_future_does_no_harm() -> None:
    kept = CallFailures()
    kept.take(told(count=0), 1000.0, 10.0)
    kept.take(told(count=-3), 1000.0, 10.0)
    assert kept.of("s", 10.0) == []
    kept.take(told(ages=(-5, -5)), 1000.0, 10.0)
    (one,) = kept.of("s", 10.0)
    assert one.last == 1000.0


def test_after_an_hour_it_is_forgotten() -> None:
    kept = CallFailures()
    kept.take(told(), 1000.0, 10.0)
    kept.take(told(reason=LATE), 1000.0, 3000.0)
    assert [one.reason for one in kept.of("s", 3609.0)] == [FULL, LATE]
    assert [one.reason for one in kept.of("s", 3610.0)] == [LATE]
    assert kept.of("s", 6600.0) == []


def test_of_too_many_the_oldest_go() -> None:
    kept = CallFailures()
    for number in range(5000):
        kept.take(told(f"s{number}"), 1000.0, float(number) / 1000)
        kept.take(told("loud", count=2), 1000.0, float(number) / 1000)
    left = [number for number in range(5000) if kept.of(f"s{number}", 5.0)]
    assert left == list(range(5000 - 4095, 5000))
    assert kept.of("loud", 5.0)[0].count == 10_000


def test_a_list_that_comes_again_is_not_new() -> None:
    usage = RouterUsage()
    assert not usage.is_new("w", 1)  # nobody knows this watch
    usage.open("w")
    assert not usage.is_new("w", 0)  # there is no list
    assert usage.is_new("w", 4)
    assert not usage.is_new("w", 4)
    assert usage.is_new("w", 5)
    usage.close("w")
    assert not usage.is_new("w", 6)
    usage.open("x")
    assert usage.is_new("x", 5)
