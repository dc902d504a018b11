"""Calls with the same key go to the same replica, within its load, and survive scaling."""

from __future__ import annotations

import random
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from podbay_inference_router.balancing import pick_by_key
from podbay_inference_router.ring import HashRing, load_bound
from podbay_inference_router.table import Endpoint
from tests.support.router_table import FakeUpstream

KEYS = [f"user-{number}" for number in range(2000)]


def endpoints(names: list[str]) -> list[Endpoint]:
    return [
        Endpoint(name, "h", index, FakeUpstream("h", index)) for index, name in enumerate(names)
    ]


def owners(names: list[str]) -> dict[str, str]:
    ring = HashRing(names)
    return {key: names[next(ring.order(key))] for key in KEYS}


def test_only_the_keys_of_what_comes_or_goes_move() -> None:
    names = [f"r{number}" for number in range(5)]
    before, more, fewer = owners(names), owners([*names, "r5"]), owners(names[:-1])
    moved = [key for key in KEYS if before[key] != more[key]]
    assert all(more[key] == "r5" for key in moved)
    assert len(moved) < len(KEYS) * 2 / 6
    assert all(before[key] == fewer[key] for key in KEYS if before[key] != "r4")
    # The order in which they are told does not matter.
    assert owners(names[::-1]) == before


def test_every_process_agrees() -> None:
    code = (
        "from podbay_inference_router.ring import HashRing;"
        "print([next(HashRing(['a','b','c']).order(str(n))) for n in range(50)])"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


@given(names=st.lists(st.text(min_size=1), min_size=1, max_size=8, unique=True), key=st.text())
def test_the_order_holds_every_replica_once(names: list[str], key: str) -> None:
    assert sorted(HashRing(names).order(key)) == list(range(len(names)))


def test_an_empty_ring_has_nothing() -> None:
    assert list(HashRing([]).order("x")) == []


def test_a_bound_is_never_below_one_nor_below_the_fair_share() -> None:
    assert [load_bound(total, 4) for total in (1, 2, 4, 8, 100)] == [1, 1, 2, 3, 32]
    assert all(load_bound(total, 3) * 3 >= total for total in range(1, 500))


def test_one_key_alone_stays_where_it_is_and_a_hot_one_spreads() -> None:
    some = endpoints(["a", "b", "c"])
    ring = HashRing(["a", "b", "c"])
    home = pick_by_key(some, 99, 0.0, ring, "k")
    assert home is not None
    for _ in range(10):  # one call at a time
        assert pick_by_key(some, 99, 0.0, ring, "k") is home
    for _ in range(60):
        chosen = pick_by_key(some, 99, 0.0, ring, "k")
        assert chosen is not None
        chosen.outstanding += 1
    assert max(endpoint.outstanding for endpoint in some) <= load_bound(60, 3)


def test_limits_and_health_go_before_keys() -> None:
    some = endpoints(["a", "b"])
    ring = HashRing(["a", "b"])
    home = pick_by_key(some, 99, 0.0, ring, "k")
    assert home is not None
    other = next(endpoint for endpoint in some if endpoint is not home)
    home.asides, home.aside_until = 1, 5.0
    assert pick_by_key(some, 99, 0.0, ring, "k") is other
    assert pick_by_key(some, 99, 6.0, ring, "k") is home, "it is tried again"
    home.asides = 0
    assert pick_by_key(some, 99, 0.0, ring, "k", exclude=home) is other
    home.outstanding = other.outstanding = 2
    assert pick_by_key(some, 2, 0.0, ring, "k") is None


def test_many_keys_use_all_replicas_evenly() -> None:
    rng = random.Random(3)
    names = [f"r{number}" for number in range(4)]
    some, ring = endpoints(names), HashRing(names)
    for _ in range(2000):
        chosen = pick_by_key(some, 10_000, 0.0, ring, rng.choice(KEYS))
        assert chosen is not None
        chosen.outstanding += 1
    loads = [endpoint.outstanding for endpoint in some]
    assert max(loads) <= load_bound(2000, 4)
    assert min(loads) > 2000 / 4 * 0.6
