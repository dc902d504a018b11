"""Accounts that share a session: whose turn it is, and who gives up a place."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from podbay_inference_router.tenancy import AccountLoad, FairLine, Tenant

Place = Tenant[str]


def places(*names: str) -> list[Place]:
    return [Tenant(AccountLoad(name)) for name in names]


def everybody(_: Place) -> bool:
    return True


def test_a_line_keeps_its_order_within_an_account() -> None:
    (one,) = places("one")
    line: FairLine[str] = FairLine()
    assert not line
    assert line.first(everybody) is None
    for name in "abc":
        line.add(name, one)
    line.add("first", one, front=True)
    line.remove("b", one)
    assert len(line) == one.account.waiting == 3
    assert line.first(everybody) == ("first", one)
    assert line.take_all() == ["first", "a", "c"]
    assert not line
    assert one.account.waiting == 0


def test_the_account_with_the_fewest_running_calls_goes_first_then_they_take_turns() -> None:
    many, few = places("many", "few")
    line: FairLine[str] = FairLine()
    for number in range(6):
        line.add(f"m{number}", many)
    for number in range(3):
        line.add(f"f{number}", few)
    many.running = 2
    order = []
    while (found := line.first(everybody)) is not None:
        call, tenant = found
        line.remove(call, tenant)
        line.served(tenant)
        tenant.running += 1
        order.append(call)
    assert order == ["f0", "f1", "m0", "f2", "m1", "m2", "m3", "m4", "m5"]


def test_an_account_at_its_limit_holds_nobody_up() -> None:
    full, free = places("full", "free")
    line: FairLine[str] = FairLine()
    line.add("x", full)
    assert line.first(lambda tenant: tenant is free) is None
    line.add("y", free)
    assert line.first(lambda tenant: tenant is free) == ("y", free)


def test_who_fills_the_line_gives_way_to_who_does_not() -> None:
    greedy, modest = places("greedy", "modest")
    line: FairLine[str] = FairLine()
    for number in range(4):
        line.add(f"g{number}", greedy)
    assert line.crowded_out_by(greedy) is None
    assert line.crowded_out_by(modest) == "g3"
    line.remove("g3", greedy)
    line.add("m0", modest)
    assert line.crowded_out_by(modest) == "g2"
    line.remove("g2", greedy)
    line.add("m1", modest)
    assert line.crowded_out_by(modest) is None


def test_what_is_ahead_of_a_new_call_is_its_own_lane_and_as_many_of_each_other() -> None:
    one, other, new = places("one", "other", "new")
    line: FairLine[str] = FairLine()
    for number in range(10):
        line.add(f"a{number}", one)
    line.add("b", other)
    assert line.ahead_of(one) == 11
    assert line.ahead_of(other) == 1 + 2
    assert line.ahead_of(new) == 2


@given(
    arrivals=st.lists(st.sampled_from(["a", "a", "a", "b", "c"]), min_size=1, max_size=80),
    slots=st.integers(1, 4),
    seed=st.integers(0, 999),
)
def test_a_turn_goes_to_nobody_who_has_more_running_than_another_that_waits(
    arrivals: list[str], slots: int, seed: int
) -> None:
    rng = random.Random(seed)
    line: FairLine[str] = FairLine()
    known = {name: Tenant[str](AccountLoad(name)) for name in "abc"}
    for number, name in enumerate(arrivals):
        line.add(f"{name}{number}", known[name])
    running: list[Place] = []
    served: Counter[str] = Counter()
    while line or running:
        while len(running) < slots and (found := line.first(everybody)) is not None:
            call, tenant = found
            assert tenant.running == min(item.running for item in line.tenants())
            line.remove(call, tenant)
            line.served(tenant)
            tenant.running += 1
            running.append(tenant)
            served[tenant.account.name] += 1
        running.pop(rng.randrange(len(running))).running -= 1
    assert served == Counter(arrivals)
    assert all(tenant.account.waiting == 0 for tenant in known.values())


def test_two_accounts_get_equal_shares_whatever_they_queue() -> None:
    greedy, modest = places("greedy", "modest")
    line: FairLine[str] = FairLine()
    for number in range(1000):
        line.add(f"g{number}", greedy)
    for number in range(50):
        line.add(f"m{number}", modest)
    running = [greedy] * 3  # it was there first, and has all replicas
    greedy.running = 3
    turns = []
    for _ in range(100):
        running.pop(0).running -= 1
        found = line.first(everybody)
        assert found is not None
        line.remove(*found)
        line.served(found[1])
        found[1].running += 1
        running.append(found[1])
        turns.append(found[1])
    assert 48 <= turns.count(modest) <= 50
