"""A replica's limit that several workers keep together."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podbay_inference_router.leases import LeaseFile, Shared, cut, make_lease_file
from podbay_inference_router.settings import Settings
from podbay_inference_router.table import Endpoint
from podbay_inference_router.tenancy import AccountLoad
from tests.support.router_fakes import route
from tests.support.router_leases import TakenLeases
from tests.support.router_table import FakeRouter, FakeUpstream, ListSink

CHILD = """
import sys
from podbay_inference_router.leases import LeaseFile
from podbay_inference_router.table import Endpoint
leases = LeaseFile(int(sys.argv[1]), 1, 2)
endpoint = Endpoint("r", "h", 1, None)
for line in sys.stdin:
    word, limit, outstanding = line.split()
    endpoint.outstanding = int(outstanding)
    if word == "grow":
        leases.grow(endpoint, int(limit), 0.0)
    elif word == "shrink":
        leases.shrink(endpoint, int(limit), 0.0)
    else:
        leases.mark(endpoint, waits=word == "wait")
    print(endpoint.allowance, flush=True)
"""


class Other:
    """Another worker's view of the file: a process of its own, as locks are a process's."""

    def __init__(self, file: BinaryIO) -> None:
        number = file.fileno()
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[number],
        )

    def does(self, word: str, limit: int = 1, outstanding: int = 0) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word} {limit} {outstanding}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def file() -> Iterator[BinaryIO]:
    with make_lease_file() as made:
        yield made


def test_a_file_with_a_name_is_that_of_the_workers_before_too(tmp_path: Path) -> None:
    with make_lease_file(tmp_path / "leases") as former:
        before = Other(former)
        try:
            assert before.does("grow", limit=1) == 1
            before.does("wait")
            with make_lease_file(tmp_path / "leases", in_use=True) as file:
                mine = endpoint()
                leases = LeaseFile(file.fileno(), 0, 2)
                assert not leases.grow(mine, 1, 0.0)
                assert sum(file.read()) == 1  # the mark
        finally:
            before.close()
    with make_lease_file(tmp_path / "leases") as file:
        assert sum(file.read()) == 0
        assert LeaseFile(file.fileno(), 0, 2).grow(mine, 1, 0.0)


@pytest.fixture
def other(file: BinaryIO) -> Iterator[Other]:
    made = Other(file)
    yield made
    made.close()


def endpoint() -> Endpoint:
    return Endpoint("r", "h", 1, FakeUpstream("h", 1))


@given(limit=st.one_of(st.integers(1, 5000), st.integers(1, 2**31 - 1)))
def test_the_leases_of_a_limit_are_the_limit(limit: int) -> None:
    sizes = cut(limit)
    assert sum(sizes) == limit
    assert len(sizes) <= 256, "where those of another limit begin"
    if limit < 500_000:
        before = 0
        for size in sizes:
            assert 1 <= size <= max(1, before // 16)
            before += size


@given(limits=st.tuples(st.integers(1, 3000), st.integers(1, 3000)))
def test_the_leases_of_a_limit_are_the_first_of_those_of_a_larger_one(
    limits: tuple[int, int],
) -> None:
    small, large = cut(min(limits)), cut(max(limits))
    assert small[:-1] == large[: len(small) - 1]
    assert small[-1] <= large[len(small) - 1]


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_workers_that_know_other_limits_have_no_more_than_the_largest_one(
    data: st.DataObject,
) -> None:
    with make_lease_file() as file:
        taken: set[int] = set()
        leases = [TakenLeases(file.fileno(), index, 3, taken) for index in range(3)]
        workers = [endpoint() for _ in leases]
        bounds = [data.draw(st.integers(0, 200)) for _ in workers]
        for index in data.draw(st.lists(st.integers(0, 2), max_size=300)):
            mine = workers[index]
            if data.draw(st.integers(0, 3)) == 0:
                mine.outstanding = max(0, mine.outstanding - data.draw(st.integers(1, 30)))
                leases[index].shrink(mine, 200, 0.0, politely=False)
            while mine.outstanding >= leases[index].allowance(mine, bounds[index]):
                if not leases[index].grow(mine, bounds[index], 0.0):
                    break
            else:
                mine.outstanding += 1
            running = sum(worker.outstanding for worker in workers)
            told = [each.bound(mine) for each, mine in zip(leases, workers, strict=True)]
            assert running <= max(told) <= max(bounds), (bounds, told)


def test_no_two_workers_have_the_same_lease(file: BinaryIO, other: Other) -> None:
    leases, mine = LeaseFile(file.fileno(), 0, 2), endpoint()
    assert leases.grow(mine, 3, 0.0)
    assert leases.grow(mine, 3, 0.0)
    assert other.does("grow", 3) == 1
    assert other.does("grow", 3) == 1, "there are no more"
    assert not leases.grow(mine, 3, 0.0)
    mine.outstanding = 1
    leases.shrink(mine, 3, 0.0)
    assert mine.allowance == 1
    assert other.does("grow", 3) == 2
    other.process.kill()
    other.process.wait()
    assert leases.grow(mine, 3, 0.0), "the kernel took back what the dead one had"
    assert leases.grow(mine, 3, 0.0)
    assert mine.allowance == 3


def test_another_object_of_the_same_process_gets_no_lease_twice(file: BinaryIO) -> None:
    leases, before, after = LeaseFile(file.fileno(), 0, 2), endpoint(), endpoint()
    assert leases.grow(before, 1, 0.0)
    assert not leases.grow(after, 1, 0.0), "the endpoint came back while its old calls run"
    leases.shrink(before, 1, 0.0)
    assert leases.grow(after, 1, 0.0)


def test_a_worker_that_has_its_share_lets_one_that_waits_go_first(
    file: BinaryIO, other: Other
) -> None:
    leases, mine = LeaseFile(file.fileno(), 0, 2), endpoint()
    assert leases.grow(mine, 1, 0.0)
    other.does("wait")
    leases.shrink(mine, 1, 1.0)
    assert not leases.grow(mine, 1, 1.001), "the other one waits"
    assert leases.grow(mine, 1, 1.1), "and did not come"
    leases.shrink(mine, 1, 2.0)
    other.does("rest")
    assert leases.grow(mine, 1, 3.0)
    leases.shrink(mine, 1, 3.0)
    assert leases.grow(mine, 1, 3.0)


class FakeLeases:
    """The file's rules in memory, for two workers in one process."""

    def __init__(self, taken: dict[str, int]) -> None:
        self._taken = taken

    def allowance(self, shared: Shared, bound: int) -> int:
        return shared.allowance

    def grow(self, shared: Shared, bound: int, now: float) -> bool:
        key = shared.lease_key
        if self._taken.get(key, 0) >= bound:
            return False
        self._taken[key] = self._taken.get(key, 0) + 1
        shared.allowance += 1
        shared.leases[shared.allowance] = 1
        return True

    def shrink(self, shared: Shared, limit: int, now: float, *, politely: bool = True) -> None:
        while shared.allowance > shared.outstanding:
            del shared.leases[shared.allowance]
            shared.allowance -= 1
            self._taken[shared.lease_key] -= 1

    def mark(self, shared: Shared, *, waits: bool) -> None:
        pass


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), limit=st.integers(1, 3), replicas=st.integers(1, 3))
def test_two_workers_never_have_more_than_the_limit_and_lose_no_call(
    seed: int, limit: int, replicas: int
) -> None:
    rng, taken = random.Random(seed), dict[str, int]()
    routers = [
        FakeRouter(
            Settings(workers=2, worker_index=index, leases=True, queue_length=99, queue_timeout=60),
            leases=FakeLeases(taken),
        )
        for index in range(2)
    ]
    ports = list(range(1, replicas + 1))
    told = route("s", ports, max_concurrency=limit, safe_to_retry=True)
    told.hedge_after.FromMilliseconds(20)
    sinks: list[ListSink] = []

    def check() -> None:
        for port in ports:
            running = [
                flight
                for router in routers
                for upstream in router.upstreams
                if upstream.port == port
                for flight in upstream.flights
            ]
            assert len(running) <= limit
            assert len(running) <= taken.get(f"s-r{port - 1} 127.0.0.1 {port}", 0) <= limit

    for router in routers:
        router.apply(told)
    for _ in range(80):
        router = rng.choice(routers)
        match rng.randrange(5):
            case 0 | 1:
                sinks.append(router.call(affinity=rng.choice(["", "k"]))[1])
            case 2:
                router.scheduler.advance(rng.choice([0.001, 0.01, 0.05]))
            case _:
                flights = [flight for up in router.upstreams for flight in up.flights]
                if flights:
                    rng.choice(flights).answer(status=rng.choice([200, 200, 500]))
        check()
    for _ in range(400):
        for router in routers:
            for flight in [flight for up in router.upstreams for flight in up.flights]:
                if flight in flight.upstream.flights:
                    flight.answer()
            router.scheduler.advance(0.01)
            check()
    assert all(sink.reason is not None for sink in sinks)
    assert not any(taken.values())
    assert all(router.dispatcher.active == 0 for router in routers)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), quota=st.integers(1, 4), limit=st.integers(0, 2))
def test_two_workers_keep_an_accounts_quota_together_and_lose_no_call(
    seed: int, quota: int, limit: int
) -> None:
    rng, taken = random.Random(seed), dict[str, int]()
    routers = [
        FakeRouter(
            Settings(workers=2, worker_index=index, leases=True, queue_length=99, queue_timeout=60),
            leases=FakeLeases(taken),
        )
        for index in range(2)
    ]
    told = [route("s", [1, 2], max_concurrency=limit), route("t", [3], max_concurrency=limit)]
    sinks: list[ListSink] = []

    def running(account: str) -> int:
        return sum(router.dispatcher.account(account).running for router in routers)

    def check() -> None:
        assert running("acct") <= taken.get("account acct", 0) <= quota

    for router in routers:
        router.apply(*told, limits={"acct": quota})
    for _ in range(80):
        router = rng.choice(routers)
        match rng.randrange(5):
            case 0 | 1:
                account = rng.choice(["acct", "acct", "other"])
                sinks.append(router.call(rng.choice("st"), account=account)[1])
            case 2:
                router.scheduler.advance(rng.choice([0.001, 0.01, 0.05]))
            case _:
                flights = [flight for up in router.upstreams for flight in up.flights]
                if flights:
                    rng.choice(flights).answer(status=rng.choice([200, 200, 500]))
        check()
        if not limit:
            # Whose quota is not full, and who has none, does not wait for those whose is.
            for each in routers:
                assert each.dispatcher.account("other").waiting == 0
    for _ in range(600):
        for router in routers:
            for flight in [flight for up in router.upstreams for flight in up.flights]:
                if flight in flight.upstream.flights:
                    flight.answer()
            router.scheduler.advance(0.01)
            check()
    assert all(sink.reason is not None for sink in sinks)
    assert not any(taken.values())
    assert all(router.dispatcher.active == 0 for router in routers)
    assert all(router.dispatcher.running() == {} for router in routers)


def test_leases_of_accounts_are_not_those_of_replicas(file: BinaryIO, other: Other) -> None:
    leases, mine, account = LeaseFile(file.fileno(), 0, 2), endpoint(), AccountLoad("r")
    assert leases.grow(mine, 1, 0.0)
    assert leases.grow(account, 1, 0.0)
    assert other.does("grow", 1) == 0
    leases.shrink(mine, 1, 0.0)
    assert other.does("grow", 1) == 1
    assert account.allowance == 1
