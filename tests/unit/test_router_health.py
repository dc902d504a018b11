"""When a replica is set aside, tried again and told of; how many calls may be sent twice."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podbay_inference_router.balancing import pick
from podbay_inference_router.budget import RetryBudget
from podbay_inference_router.health import (
    aside_seconds,
    clear,
    is_failure,
    is_healthy,
    strike,
    worth_telling,
)
from podbay_inference_router.rates import DrainRate
from podbay_inference_router.table import Endpoint
from tests.support.router_table import FakeUpstream


def replicas(count: int) -> list[Endpoint]:
    return [Endpoint(f"r{index}", "h", index, FakeUpstream("h", index)) for index in range(count)]


@pytest.mark.parametrize(
    ("status", "failed"),
    [(400, False), (404, False), (429, False), (500, True), (501, False), (503, True), (504, True)],
)
def test_which_statuses_are_failures_of_the_replica(status: int, failed: bool) -> None:
    assert is_failure(status) is failed


def test_a_row_of_failures_sets_a_replica_aside_and_one_good_call_ends_the_row() -> None:
    bad, good = both = replicas(2)
    assert not strike(bad, both, 3, 10.0)
    assert not strike(bad, both, 3, 10.0)
    assert not clear(bad)
    assert not strike(bad, both, 3, 10.0)
    assert not strike(bad, both, 3, 10.0)
    assert strike(bad, both, 3, 10.0)
    assert bad.aside_until == 11.0
    assert not is_healthy(bad)
    assert pick(both, 9, 10.5, random.random) is good
    good.outstanding = 5
    assert pick(both, 9, 10.5, random.random) is good
    assert pick(both, 9, 11.0, random.random) is bad, "it is tried again"
    bad.probing = True
    assert pick(both, 9, 11.0, random.random) is good, "by one call"
    assert strike(bad, both, 3, 11.0), "one failed try is enough"
    assert bad.aside_until == 13.0
    assert clear(bad)
    assert is_healthy(bad)


def test_pauses_grow_and_end() -> None:
    assert [aside_seconds(times) for times in (1, 2, 3, 6, 60)] == [1.0, 2.0, 4.0, 30.0, 30.0]


def test_no_limit_is_never() -> None:
    bad, _ = both = replicas(2)
    assert not any(strike(bad, both, 0, 1.0) for _ in range(100))


@given(failing=st.lists(st.integers(0, 3), max_size=60), count=st.integers(1, 4))
def test_the_last_healthy_replica_is_never_set_aside(failing: list[int], count: int) -> None:
    some = replicas(count)
    for index in failing:
        strike(some[index % count], some, 2, 0.0)
        assert any(is_healthy(endpoint) for endpoint in some)
        assert pick(some, 9, 0.0, random.random) is not None


def test_where_the_healthy_one_cannot_be_reached_those_set_aside_take_calls() -> None:
    aside, last = both = replicas(2)
    strike(aside, both, 1, 0.0)
    assert pick(both, 9, 0.5, random.random) is last
    last.failures, last.down_until = 1, 9.0
    assert pick(both, 9, 0.5, random.random) is aside
    aside.outstanding = 9
    assert pick(both, 9, 0.5, random.random) is None


def test_a_replica_is_told_of_when_its_row_has_doubled() -> None:
    assert [strikes for strikes in range(1, 100) if worth_telling(strikes, 5)] == [
        5,
        10,
        20,
        40,
        80,
    ]
    assert not worth_telling(5, 0)


def test_a_tenth_of_the_calls_may_be_sent_twice_and_a_handful_at_once() -> None:
    budget = RetryBudget(0.1)
    assert [budget.take(0) for _ in range(12)] == [True] * 10 + [False] * 2
    spent = sum(budget.take(calls) for calls in range(1, 1001))
    assert spent == 100
    quiet = RetryBudget(0.1)
    assert sum(quiet.take(1_000_000) for _ in range(50)) == 10, "what is not spent is not saved up"
    assert not RetryBudget(0.0).take(1000)


@given(steps=st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=100))
def test_no_more_is_spent_than_the_share_and_the_handful(steps: list[tuple[int, bool]]) -> None:
    budget, calls, spent = RetryBudget(0.1), 0, 0
    for more, wanted in steps:
        calls += more
        spent += wanted and budget.take(calls)
        assert spent <= 10 + 0.1 * calls + 1e-3


def test_the_rate_of_a_queue_is_what_left_it_while_calls_waited() -> None:
    rate = DrainRate()
    rate.begin(100.0)
    assert rate.seconds_for(5, 100.0) is None
    for number in range(1, 21):
        rate.note(100.0 + number * 0.1)
    assert rate.measured
    assert rate.seconds_for(50, 102.0) == pytest.approx(5.0, rel=0.05)
    # It begins to wait again much later: the pause between says nothing.
    rate.begin(500.0)
    assert rate.seconds_for(50, 500.0) == pytest.approx(5.0, rel=0.05)
    # A queue that stands still is not about to be empty.
    assert (rate.seconds_for(50, 510.0) or 0) > 40.0


def test_a_few_calls_do_not_decide() -> None:
    rate = DrainRate()
    rate.begin(0.0)
    rate.note(0.1)
    rate.note(5.0)
    assert rate.seconds_for(1, 5.0) is None
    assert not rate.measured


def test_a_slow_replica_gets_its_share_only() -> None:
    """Least outstanding: one that takes ten times as long gets about a tenth of the calls."""
    some, rng = replicas(3), random.Random(1)
    took: Counter[int] = Counter()
    busy: list[tuple[float, Endpoint]] = []
    for step in range(30_000):
        now = step * 0.001
        for until, endpoint in [item for item in busy if item[0] <= now]:
            busy.remove((until, endpoint))
            endpoint.outstanding -= 1
        if len(busy) < 12:
            chosen = pick(some, 99, now, rng.random)
            assert chosen is not None
            chosen.outstanding += 1
            took[chosen.port] += 1
            busy.append((now + (0.1 if chosen.port == 0 else 0.01), chosen))
    share = took[0] / took.total()
    assert share < 0.1, took
    assert share > 0.01, "it is not left out either"
    assert abs(took[1] - took[2]) < 0.1 * took[1]
