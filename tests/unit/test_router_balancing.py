"""Which replica gets a call, who waits, and for how long."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podbay_inference_router.__main__ import default_workers
from podbay_inference_router.balancing import backoff_after, pick
from podbay_inference_router.queueing import Bounds, Line, Refusal, admit
from podbay_inference_router.settings import Settings
from podbay_inference_router.slots import restart_pause
from podbay_inference_router.table import Endpoint
from podbay_inference_router.watch import pause_after
from tests.support.router_table import FakeUpstream


def endpoints(*outstanding: int) -> list[Endpoint]:
    made = []
    for index, count in enumerate(outstanding):
        endpoint = Endpoint(f"r{index}", "h", index, FakeUpstream("h", index))
        endpoint.outstanding = count
        made.append(endpoint)
    return made


def test_the_least_busy_is_chosen() -> None:
    some = endpoints(3, 1, 2)
    assert pick(some, 10, 0.0, random.random) is some[1]


def test_equals_are_chosen_by_lot() -> None:
    some = endpoints(1, 0, 0, 5, 0)
    rng = random.Random(1)
    counts = Counter(pick(some, 10, 0.0, rng.random) for _ in range(3000))
    assert set(counts) == {some[1], some[2], some[4]}
    assert min(counts.values()) > 900


def test_a_limit_is_kept() -> None:
    some = endpoints(2, 2)
    assert pick(some, 2, 0.0, random.random) is None
    assert pick(some, 3, 0.0, random.random) in some
    assert pick([], 3, 0.0, random.random) is None


def test_an_excluded_endpoint_is_not_chosen() -> None:
    some = endpoints(0, 5)
    assert pick(some, 10, 0.0, random.random, some[0]) is some[1]
    assert pick(some[:1], 10, 0.0, random.random, some[0]) is None


def test_an_endpoint_that_refused_is_left_alone_and_then_tried_by_one() -> None:
    some = endpoints(0, 5)
    some[0].failures = 1
    some[0].down_until = 10.0
    assert pick(some, 10, 9.0, random.random) is some[1]
    assert pick(some, 10, 10.0, random.random) is some[0]
    some[0].probing = True
    assert pick(some, 10, 10.0, random.random) is some[1]


def test_pauses_grow_and_end() -> None:
    for pause, first, last in ((backoff_after, 0.05, 2.0), (pause_after, 0.1, 0.25)):
        values = [pause(count) for count in range(1, 40)]
        assert values[0] == first
        assert values[-1] == last
        assert values == sorted(values)
    assert restart_pause(0) == restart_pause(1) == 0.1
    assert restart_pause(50) == 5.0


BUSY: dict[str, Any] = {
    "known": True,
    "since_ready": 0.0,
    "connectable": True,
    "waited": 0.0,
}
BOUNDS = Bounds(max_length=2, queue_timeout=30.0, settle=0.5)
ACCOUNT = BOUNDS._replace(account_length=2, account_timeout=3.0)


@pytest.mark.parametrize(
    ("bounds", "line", "changes", "seconds", "refusal"),
    [
        (BOUNDS, Line(0), {}, 30.0, Refusal.BUSY),
        (BOUNDS, Line(0), {"waited": 29.0}, 1.0, Refusal.BUSY),
        (BOUNDS, Line(0), {"waited": 31.0}, -1.0, Refusal.BUSY),
        (BOUNDS._replace(queue_timeout=0.0), Line(0), {}, 0.0, Refusal.BUSY),
        (BOUNDS, Line(2), {}, 0.0, Refusal.FULL),
        (BOUNDS, Line(1), {}, 30.0, Refusal.BUSY),
        (BOUNDS, Line(0), {"connectable": False}, 30.0, Refusal.UNREACHABLE),
        (BOUNDS, Line(0), {"since_ready": None}, 0.0, Refusal.NOT_READY),
        (BOUNDS, Line(0), {"since_ready": None, "known": False}, 0.5, Refusal.NOT_READY),
        (
            BOUNDS._replace(settle=0.0),
            Line(0),
            {"since_ready": None, "known": False},
            0.0,
            Refusal.NOT_READY,
        ),
        (BOUNDS, Line(0), {"since_ready": 5.0}, 30.0, Refusal.NOT_READY),
        (BOUNDS._replace(queue_timeout=0.0), Line(0), {"since_ready": 5.0}, 0.0, Refusal.NOT_READY),
        (BOUNDS, Line(0), {"since_ready": 31.0}, 0.0, Refusal.NOT_READY),
        (BOUNDS, Line(2), {"since_ready": None, "known": False}, 0.0, Refusal.FULL),
        # An account's own limits.
        (ACCOUNT, Line(0, 2), {}, 0.0, Refusal.ACCOUNT_FULL),
        (ACCOUNT, Line(0, 1), {}, 30.0, Refusal.BUSY),
        (ACCOUNT, Line(0, 1, account_held=True), {}, 3.0, Refusal.ACCOUNT_BUSY),
        (BOUNDS, Line(0, 99), {}, 30.0, Refusal.BUSY),
        # A call that cannot make it.
        (BOUNDS, Line(1, expected=9.0), {"left": 8.0}, 0.0, Refusal.TOO_LATE),
        (BOUNDS, Line(1, expected=9.0), {"left": 10.0}, 30.0, Refusal.BUSY),
        (BOUNDS, Line(1, expected=9.0), {"since_ready": 5.0, "left": 8.0}, 30.0, Refusal.NOT_READY),
    ],
)
def test_who_waits_and_for_how_long(
    bounds: Bounds, line: Line, changes: dict[str, Any], seconds: float, refusal: Refusal
) -> None:
    assert admit(bounds, line, **{**BUSY, **changes}) == (seconds, refusal)


@pytest.mark.parametrize(
    ("limit", "workers", "shares"),
    [
        (0, 2, [4096, 4096]),
        (1, 1, [1]),
        (7, 1, [7]),
        (7, 2, [4, 3]),
        (8, 4, [2, 2, 2, 2]),
        (1, 2, [1, 1]),
        (100_000, 1, [4096]),
    ],
)
def test_a_replicas_limit_is_divided_among_the_workers(
    limit: int, workers: int, shares: list[int]
) -> None:
    assert [
        Settings(workers=workers, worker_index=index).limits_of(limit)[0]
        for index in range(workers)
    ] == shares


@given(limit=st.integers(1, 10_000), workers=st.integers(1, 64))
def test_what_runs_is_divided_among_the_workers_and_each_has_some(limit: int, workers: int) -> None:
    """The session's and the account's limits: exact, unless there are fewer calls than workers."""
    shares = [
        Settings(workers=workers, worker_index=index).divided(limit) for index in range(workers)
    ]
    assert sum(shares) == max(limit, workers)
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (2, 2), (4, 4), (64, 4)])
def test_the_number_of_workers_follows_the_machine(cpus: int, workers: int) -> None:
    assert default_workers(cpus) == workers
