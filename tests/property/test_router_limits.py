"""Routers of several workers keep limits of sessions and accounts together, and use all of them.

Each worker has a dispatcher as in a router, its leases, and both ends of its stream to the one that
gives shares. Messages and changes of a quota take their time, each in its order.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from podbay_inference_router.calls import Call
from podbay_inference_router.leases import LeaseFile, make_lease_file
from podbay_inference_router.router_shares import RouterShares
from podbay_inference_router.settings import Settings
from podbay_inference_router.shares import LimitShares
from podbay_kit.limit_keys import account_limit_key
from podbay_session_manager.shares import TURN_SECONDS, ShareBook, Word
from tests.support.router_fakes import route
from tests.support.router_leases import TakenLeases
from tests.support.router_table import FakeFlight, FakeRouter, ListSink

LEASE = 100.0  # nobody is silent for so long, unless a test says so
ACCOUNT, SESSION, FREE = "acct", "s", "free"
REPLICAS = ("s-r0", "s-r1")
NOW = 1000.0
ROUND_SECONDS = 0.02
SLICES = 5  # a worker lets others go first for some of them
# How often everybody speaks and hears until all of a limit is at one worker: what it wants, that
# the others are to have less, and that they have.
EXCHANGES = 3


class Worker:
    """One worker of a router, and both ends of its stream to the session manager."""

    def __init__(self, router: str, index: int, count: int, leases: TakenLeases | None) -> None:
        self.router = router
        self.name = f"{router}-{index}"
        self.count = count
        self.leases = leases
        self.limits = LimitShares()
        self.fake = FakeRouter(
            Settings(
                queue_length=500,
                queue_timeout=900,
                workers=count,
                worker_index=index,
                leases=leases is not None,
            ),
            leases=leases,
            shares=lambda fake: self._shares(fake, leases),
            rng=random.Random(self.name).random,
        )
        self.quotas: deque[int | None] = deque()
        self.quota: int | None = None
        self.up: deque[Word] = deque()
        self.down: deque[tuple[int, bool, dict[str, int]]] = deque()
        self.number = 0

    def _shares(self, fake: FakeRouter, leases: LeaseFile | None) -> RouterShares:
        self.shares = RouterShares(
            self.limits,
            fake.table,
            lambda: fake.dispatcher.accounts(),  # noqa: PLW0108 # made after this
            leases,
            lambda: fake.scheduler.now,
        )
        return self.shares

    def speak(self) -> None:
        uses = self.shares.uses()
        self.up.append(
            Word(
                router=self.router,
                worker=self.name,
                workers=self.count,
                kept=self.limits.kept,
                held={key: use.held for key, use in uses.items()},
                wanted={key: use.wanted for key, use in uses.items()},
                sole=self.limits.sole,
                usable={key: use.usable for key, use in uses.items()},
            )
        )

    def take(self) -> None:
        if self.down:
            number, sole, shares = self.down.popleft()
            now = self.fake.scheduler.now
            if self.limits.take(number, shares, now + LEASE, now, sole=sole):
                self.fake.table.set_sole(self.limits.sole)
                self.fake.dispatcher.on_shares()

    def running(self, account: str = ACCOUNT) -> int:
        return self.fake.dispatcher.account(account).running

    @property
    def flights(self) -> list[FakeFlight]:
        return [flight for upstream in self.fake.upstreams for flight in upstream.flights]


class World:
    """Routers with their workers, one session manager, and messages that take their time."""

    def __init__(
        self,
        stack: ExitStack,
        workers: list[int],
        quota: int | None,
        session: int,
        replica: int = 0,
    ) -> None:
        self.now = NOW
        self.quota = quota
        self.session = session
        self.replica = replica
        self.book = ShareBook(LEASE, NOW)
        self.workers: list[Worker] = []
        self.taken: list[set[int]] = []
        for router, count in enumerate(workers):
            taken: set[int] = set()
            self.taken.append(taken)
            file = stack.enter_context(make_lease_file())
            for index in range(count):
                leases = TakenLeases(file.fileno(), index, count, taken) if count > 1 else None
                self.workers.append(Worker(f"r{router}", index, count, leases))
        self.sinks: list[ListSink] = []
        self.calls: list[Call] = []
        # The most that may run: the largest quota since all that runs began when all knew of it.
        self.most: float = 0
        self.set_quota(quota)
        # Those that ran when all knew of a quota: they go on, and no more than it beside them.
        self.older: list[Call] | None = None
        for worker in self.workers:
            worker.speak()
            self.answer_next(worker)
        self.settle()

    def set_quota(self, quota: int | None) -> None:
        """Change the quota; routers hear of it later."""
        self.quota = quota
        self.most = max(self.most, float("inf") if quota is None else quota)
        self.older = None
        for worker in self.workers:
            worker.quotas.append(quota)

    def hear_quota(self, worker: Worker) -> None:
        if worker.quotas:
            worker.quota = worker.quotas.popleft()
            worker.fake.apply(
                route(SESSION, [1, 2], max_in_flight=self.session, max_concurrency=self.replica),
                route(FREE, [3]),
                limits={ACCOUNT: worker.quota},
            )

    @property
    def limits(self) -> dict[str, int]:
        found = {} if self.quota is None else {account_limit_key(ACCOUNT): self.quota}
        if self.session:
            found[SESSION] = self.session
        if self.replica:
            found.update(dict.fromkeys(REPLICAS, self.replica))
        return found

    def answer_next(self, worker: Worker) -> None:
        """Let the session manager read a word, and answer it."""
        if not worker.up:
            return
        self.book.hear(worker.up.popleft(), self.now)
        sole = self.book.is_sole(worker.router)
        plan, _ = self.book.plan(self.limits, self.now)
        shares = {} if sole else plan[worker.router]
        worker.number += 1
        self.book.tell(worker.name, worker.number, shares, sole=sole)
        worker.down.append((worker.number, sole, dict(shares)))

    def exchange(self, worker: Worker) -> None:
        """Let the word of a worker and the answer arrive."""
        worker.speak()
        while worker.up:
            self.answer_next(worker)
        while worker.down:
            worker.take()

    def settle(self, rounds: int = 8) -> None:
        """Let all that was said arrive, some times over."""
        for _ in range(rounds):
            for worker in self.workers:
                while worker.quotas:
                    self.hear_quota(worker)
                self.exchange(worker)
                self.check()
            self.now += ROUND_SECONDS
            for _ in range(SLICES):
                for worker in self.workers:
                    worker.fake.scheduler.advance(ROUND_SECONDS / SLICES)
                    self.check()
        if rounds > EXCHANGES and self.older is None and self.quota is not None:
            self.older = [call for call in self.calls if call.endpoint is not None]

    def call(self, worker: Worker, session: str = SESSION, account: str = ACCOUNT) -> None:
        call, sink = worker.fake.call(session, account=account, timeout=900.0)
        self.sinks.append(sink)
        if account == ACCOUNT:
            self.calls.append(call)

    def step(self, chance: random.Random, hot: Worker) -> None:
        worker = chance.choice([hot, *self.workers])
        happens: list[Callable[[], object]] = [
            lambda: self.call(worker),
            lambda: self.call(worker, FREE),
            lambda: self.call(worker, account="other"),
            lambda: worker.fake.scheduler.advance(chance.choice([0.001, 0.006, 0.02])),
            lambda: worker.flights and chance.choice(worker.flights).answer(),
            worker.speak,
            lambda: self.answer_next(worker),
            worker.take,
            lambda: self.hear_quota(worker),
            lambda: self.pass_time(chance.choice([0.01, 0.1, 0.3])),
        ]
        chance.choices(happens, [4, 1, 1, 5, 6, 5, 6, 6, 2, 2])[0]()

    def end(self, worker: Worker) -> None:
        """Let a worker die."""
        self.workers.remove(worker)
        self.book.lose(worker.name)
        if worker.leases is not None:
            worker.leases.die()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @property
    def running(self) -> int:
        return sum(worker.running() for worker in self.workers)

    def check(self) -> None:
        """Fail where more runs than may."""
        running = self.running
        assert running <= self.most
        if self.older is not None:
            assert self.quota is not None
            older = sum(call.endpoint is not None for call in self.older)
            assert running - older <= self.quota
            if not older:
                self.most = self.quota
        if self.session:
            routes = [worker.fake.table.expect(SESSION) for worker in self.workers]
            assert sum(found.running for found in routes) <= self.session
        if self.replica:
            at_each: Counter[str] = Counter()
            for worker in self.workers:
                for endpoint in worker.fake.table.expect(SESSION).endpoints:
                    at_each[endpoint.replica_id] += endpoint.outstanding
            assert max(at_each.values()) <= self.replica

    def active(self, worker: Worker) -> int:
        return worker.fake.dispatcher.active

    def answer_some(self, chance: random.Random, likely: float = 1.0) -> None:
        for worker in self.workers:
            for flight in worker.flights:
                if flight in flight.upstream.flights and chance.random() < likely:
                    flight.answer()

    def finish(self, chance: random.Random, likely: float = 1.0) -> None:
        """Let all that is there end; fail where a router waits while others have their turns."""
        turns = 2 * len(self.taken) * round(TURN_SECONDS / ROUND_SECONDS)
        # Which of a router's workers gets a place is left to chance.
        most = {worker.name: 4 * turns + round(40 / likely) for worker in self.workers}
        most |= {worker.router: turns + round(20 / likely) for worker in self.workers}
        stood_still: Counter[str] = Counter()
        before: Counter[str] = Counter()
        while any(map(self.active, self.workers)):
            self.answer_some(chance, likely)
            self.settle(1)
            active: Counter[str] = Counter()
            for worker in self.workers:
                active[worker.name] = self.active(worker)
                active[worker.router] += self.active(worker)
            for name, calls in active.items():
                stood_still[name] = stood_still[name] + 1 if 0 < calls == before[name] else 0
                assert stood_still[name] <= most[name], name
            before = active
        assert all(sink.reason == 0 for sink in self.sinks)
        assert not any(self.taken)

    def reached_by(self, hot: Worker, calls: int) -> int:
        """Return how many of so many calls run at one worker after some exchanges."""
        for _ in range(calls):
            self.call(hot)
        self.settle(EXCHANGES)
        return hot.running()


def usable(limit: int, routers: int) -> int:
    """Return what one router has of a limit that no other one wants any of."""
    return limit - (routers - 1 if limit >= 2 * routers else 0)


@settings(max_examples=60, deadline=None)
@given(
    workers=st.sampled_from([[2], [1, 1], [2, 1], [2, 2], [3, 1, 1]]),
    quota=st.integers(1, 12),
    session=st.sampled_from([0, 0, 1, 5, 20]),
    replica=st.sampled_from([0, 0, 1, 4]),
    likely=st.sampled_from([1.0, 0.5]),
    seed=st.integers(0, 2**32),
)
@example(workers=[3, 1, 1], quota=1, session=1, replica=0, likely=1.0, seed=31)
def test_no_more_than_a_limit_runs_and_one_worker_alone_reaches_it(
    workers: list[int], quota: int, session: int, replica: int, likely: float, seed: int
) -> None:
    chance = random.Random(seed)
    with ExitStack() as stack:
        world = World(stack, workers, quota, session, replica)
        hot = chance.choice(world.workers)
        for _ in range(300):
            world.step(chance, hot)
            world.check()
        assert world.most == quota
        world.finish(chance, likely)
        # From now on one worker alone has calls.
        places = {key: usable(limit, len(workers)) for key, limit in world.limits.items()}
        of_all = [most for key, most in places.items() if key not in REPLICAS]
        of_replicas = [most for key, most in places.items() if key in REPLICAS]
        expected = min(*of_all, sum(of_replicas) if of_replicas else quota)
        assert world.reached_by(hot, quota + 2) == expected


@settings(max_examples=60, deadline=None)
@given(
    workers=st.sampled_from([[2], [1, 1], [2, 2], [3, 1, 1]]),
    quotas=st.lists(
        st.one_of(st.integers(1, 9), st.integers(1, 70), st.integers(60, 300), st.none()),
        min_size=2,
        max_size=4,
    ),
    busy=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_a_quota_that_changes_is_kept_to_and_reached(
    workers: list[int], quotas: list[int | None], busy: bool, seed: int
) -> None:
    chance = random.Random(seed)
    with ExitStack() as stack:
        world = World(stack, workers, quotas[0], 0)
        for quota in quotas[1:]:
            for _ in range(100):
                if busy:
                    world.call(chance.choice(world.workers))
                world.step(chance, world.workers[0])
                world.check()
            world.set_quota(quota)
            for _ in range(chance.choice([0, 10, 100])):
                world.step(chance, world.workers[0])
                world.check()
            if chance.random() < 0.5:
                world.settle()
        world.settle()
        world.finish(chance)
        quota = world.quota
        if quota is not None:
            world.settle()
            world.check()
            assert world.most == quota
            assert world.reached_by(world.workers[-1], quota + 2) == usable(quota, len(workers))


def test_a_share_of_a_quota_that_its_router_does_not_know_yet_is_its_own() -> None:
    with ExitStack() as stack:
        world = World(stack, [1, 1], 10, 0)
        first, second = world.workers
        for _ in range(15):
            world.call(first, FREE)
        world.settle()
        assert first.running() == 9
        world.set_quota(20)
        # The first one hears of its share of 20 before it hears of the 20.
        world.exchange(first)
        world.hear_quota(second)
        for _ in range(15):
            world.call(second, FREE)
        world.exchange(second)
        # It says that it knows the share, and has not heard that the other one wants some of it.
        first.speak()
        world.answer_next(first)
        world.exchange(second)
        world.hear_quota(first)
        world.check()
        assert [first.running(), second.running()] == [15, 1]
        world.settle()
        world.check()


def test_routers_get_places_of_all_limits_that_a_call_needs_in_one_turn() -> None:
    chance = random.Random(1)
    with ExitStack() as stack:
        world = World(stack, [1, 1, 1, 1], 1, 1)
        # All want a place of the account's limit, but only two one of the session's.
        sessions = dict(zip(world.workers, [FREE, SESSION, SESSION, FREE], strict=True))
        done = dict.fromkeys(sessions, 0)
        turn = round(TURN_SECONDS / ROUND_SECONDS)
        for _ in range(4):
            before = dict(done)
            # In so many turns each of them is the first one at least once.
            for _ in range(8 * turn):
                for worker, session in sessions.items():
                    while world.active(worker) < 3:
                        world.call(worker, session)
                answered = {worker: world.active(worker) for worker in sessions}
                world.answer_some(chance)
                for worker in sessions:
                    done[worker] += answered[worker] - world.active(worker)
                world.settle(1)
            assert all(done[worker] > before[worker] for worker in sessions)


def test_what_a_dead_worker_or_router_had_goes_to_the_others() -> None:
    with ExitStack() as stack:
        world = World(stack, [2, 2], 8, 0)
        first, beside, other, _ = world.workers
        for worker in (first, other):
            for _ in range(20):
                world.call(worker)
        world.settle()
        assert [worker.running() for worker in world.workers] == [4, 0, 4, 0]
        # Another worker has what a dead one had at once.
        for _ in range(20):
            world.call(beside)
        world.settle()
        assert beside.running() == 0
        world.end(first)
        world.settle()
        assert beside.running() == 4
        # Another router has it once the dead one could not use it any more if it lived.
        world.end(beside)
        world.settle()
        assert other.running() == 4
        world.pass_time(0.9 * LEASE)
        world.settle()
        assert other.running() == 4
        world.pass_time(0.2 * LEASE)
        world.book.expire(world.now)
        world.settle()
        assert other.running() == 8


def test_without_a_session_manager_all_is_kept_to_and_nobody_has_more() -> None:
    with ExitStack() as stack:
        world = World(stack, [2, 1], 8, 6)
        first, _, other = world.workers
        for worker in (first, other):
            for _ in range(20):
                world.call(worker)
        world.settle()
        held = [worker.running() for worker in world.workers]
        assert held == [3, 0, 3]
        # From now on nobody is told anything. What was told holds for a while.
        for seconds, begins in ((0.5 * LEASE, True), (LEASE, False)):
            for worker in (first, other):
                worker.fake.scheduler.advance(seconds)
                running = worker.running()
                worker.flights[0].answer()
                worker.fake.scheduler.advance(0.1)
                assert worker.running() == running - (not begins)
        # Those who ask reach nobody, so nobody can have given away what they had.
        for worker in (first, other):
            assert worker.limits.unreachable(worker.fake.scheduler.now)
            worker.fake.dispatcher.on_shares()
        assert [worker.running() for worker in world.workers] == held
        world.check()


@pytest.mark.parametrize("workers", [[2], [1, 1], [2, 2]])
@pytest.mark.parametrize("session", [1, 2, 7])
def test_two_accounts_at_two_workers_share_a_session_evenly(
    workers: list[int], session: int
) -> None:
    chance = random.Random(session)
    with ExitStack() as stack:
        world = World(stack, workers, None, session)
        accounts = {world.workers[0]: ACCOUNT, world.workers[-1]: "other"}
        done = dict.fromkeys(accounts, 0)
        for _ in range(400):
            for worker, account in accounts.items():
                while world.active(worker) < 20:
                    world.call(worker, account=account)
            world.answer_some(chance, 0.5)
            for worker in accounts:
                done[worker] += 20 - world.active(worker)
            world.settle(1)
        assert min(done.values()) > 0.4 * sum(done.values()), list(done.values())
