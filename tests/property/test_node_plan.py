"""Nodes with GPUs under random faults: lost and found, drained, and a manager that dies anywhere.

The engines here are asked what really runs: whatever the manager believes, no two containers of a
node may have the same GPU.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from podbay_session_manager.declared_nodes import DeclaredGpu
from podbay_session_manager.drivers.contract import (
    DriverUnreachableError,
    LaunchSpec,
    NodeFacts,
    ObservedReplica,
)
from podbay_session_manager.drivers.fake import Behaviour, FakeDriver, FakeEngine
from podbay_session_manager.machine import ReplicaPhase, SessionState
from podbay_session_manager.node_rules import with_silence
from podbay_session_manager.plan import plan_pass
from podbay_session_manager.plan_input import (
    Action,
    NodeRecord,
    Plan,
    ProbeState,
    RemoveReplica,
    StartReplica,
    StopReplica,
    World,
)
from podbay_session_manager.policy import Policy
from podbay_session_manager.records import (
    Needs,
    Reason,
    ReplicaRecord,
    ServiceSpec,
    Serving,
    SessionRecord,
)
from tests.property.test_session_plan import _run

T4, A100 = "nvidia.com/gpu-t4", "nvidia.com/gpu-a100"
GPUS = {"n1": (T4, T4), "n2": (T4, T4, A100), "n3": (A100, A100, A100)}
BEHAVIOURS = {"stubborn": Behaviour(ignores_stop=True), "crashes": Behaviour(exit_code=1)}
POLICY = Policy(node_grace=60.0)
_P = ReplicaPhase


class _DiedError(Exception):
    """The session manager died before its next step."""


class Cluster:
    """Three nodes and a session manager in miniature, which stores before it acts."""

    def __init__(self, gpus: dict[str, tuple[str, ...]] | None = None) -> None:
        self.now = 1_000_000.0
        gpus = GPUS if gpus is None else gpus
        self.engines = {name: FakeEngine() for name in gpus}
        self.nodes = {
            name: NodeRecord(
                name,
                f"docker/{name}",
                kind="docker",
                gpus=tuple(DeclaredGpu(f"{n}", kind) for n, kind in enumerate(types)),
            )
            for name, types in gpus.items()
        }
        self.cut_off: set[str] = set()
        self.silent: dict[str, float] = {}
        """Nodes that owe an answer, and since when."""
        self.drivers = {name: self._driver(name) for name in gpus}
        self.sessions: dict[str, SessionRecord] = {}
        self.replicas: dict[str, dict[str, ReplicaRecord]] = {}
        self.late: list[tuple[str, LaunchSpec]] = []
        self.refused: set[str] = set()
        self.steps_left: int | None = None
        self.ids = itertools.count()

    def _driver(self, name: str) -> FakeDriver:
        return FakeDriver(
            lambda: self.now,
            engine=self.engines[name],
            behaviours=BEHAVIOURS,
            facts=NodeFacts(name, name, 0, 0),
            kind="docker",
        )

    def add(self, needs: Needs, *, desired: int = 1, service: str = "good") -> str:
        key = f"s{len(self.sessions):03}"
        self.replicas[key] = {}
        self.sessions[key] = SessionRecord(
            id=key,
            account="a",
            service=ServiceSpec(kind="container", name=service, image="i"),
            serving=Serving(start_timeout=20, stop_grace=5),
            driver="docker",
            desired=desired,
            created_at=self.now,
            needs=needs,
        )
        return key

    def terminate(self, key: str) -> None:
        if self.sessions[key].state is SessionState.ACTIVE:
            self.sessions[key] = self.sessions[key].ending(
                self.now,
                ended_reason=Reason.SESSION_TERMINATED,
                status="Terminated",
                status_reason="TerminateCommand",
                message="",
            )

    def change(self, name: str, **changes: object) -> None:
        self.nodes[name] = replace(self.nodes[name], **changes)  # type: ignore[arg-type]

    def run_pass(self) -> Plan:
        observed: dict[str, dict[str, ObservedReplica] | None] = {}
        silent: dict[str, float] = {}
        for name, driver in self.drivers.items():
            driver.unreachable = name in self.cut_off
            if name in self.silent and name not in self.cut_off:
                observed[driver.name] = None
                silent[driver.name] = self.now - self.silent[name]
                continue
            node = self.nodes[name]
            try:
                observed[driver.name] = {o.replica_id: o for o in _run(driver.list())}
                self.change(name, unreachable="", unreachable_since=None)
            except DriverUnreachableError as error:
                observed[driver.name] = None
                since = node.unreachable_since
                self.change(
                    name,
                    unreachable=str(error),
                    unreachable_since=self.now if since is None else since,
                )
        live = {k: s for k, s in self.sessions.items() if s.state is not SessionState.ENDED}
        probes = {
            replica.id: ProbeState(answered=True)
            for of_one in self.replicas.values()
            for replica in of_one.values()
            if replica.phase in {_P.PROBING, _P.STARTING, _P.READY}
            and replica.id not in self.refused
        }
        world = World(
            sessions=live,
            replicas={key: self.replicas[key] for key in live},
            observed=observed,
            probes=probes,
            nodes=with_silence(self.nodes.values(), observed, silent, self.now),
        )
        plan = plan_pass(world, self.now, POLICY, new_id=lambda: f"r{next(self.ids):05}")
        self._step()
        self._store(plan)
        for action in plan.actions:
            self._step()
            self._act(action)
        return plan

    def settle(self, passes: int = 40, seconds: float = 1.0) -> None:
        for _ in range(passes):
            self.run_pass()
            self.now += seconds

    def die(self) -> None:
        """Lose what is only in memory; engines and store stay."""
        self.steps_left = None
        self.drivers = {name: self._driver(name) for name in self.engines}
        for name in self.nodes:
            self.change(name, unreachable_since=None)

    def _step(self) -> None:
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise _DiedError

    def _store(self, plan: Plan) -> None:
        for session in plan.sessions.values():
            self.sessions[session.id] = session
        for replica in plan.replicas.values():
            self.replicas[replica.session_id][replica.id] = replica
        for replica_id, session_id in plan.forgotten.items():
            del self.replicas[session_id][replica_id]

    def _act(self, action: Action) -> None:
        driver = self.drivers[action.driver.removeprefix("docker/")]
        try:
            match action:
                case StartReplica(replica_id, session_id, _):
                    replica = self.replicas[session_id][replica_id]
                    if replica.phase is not _P.STARTING:
                        return
                    assert replica.driver == driver.name
                    session = self.sessions[session_id]
                    _run(
                        driver.start(
                            LaunchSpec(
                                replica_id,
                                session_id,
                                session.service,
                                session.serving,
                                replica.node,
                                replica.gpus,
                            )
                        )
                    )
                case StopReplica(replica_id, _, grace):
                    _run(driver.stop(replica_id, grace))
                case RemoveReplica(replica_id, _):
                    _run(driver.remove(replica_id))
        except DriverUnreachableError:
            return

    def leases(self) -> Iterator[tuple[str, str, ReplicaRecord]]:
        for of_one in self.replicas.values():
            for replica in of_one.values():
                if replica.holds_node:
                    for gpu in replica.gpus:
                        yield replica.node, gpu, replica

    def live(self, key: str) -> list[ReplicaRecord]:
        return [r for r in self.replicas[key].values() if not r.phase.ended]

    def on(self, name: str) -> list[str]:
        return [i for i, fake in self.engines[name].replicas.items() if fake.seen.running]


class NodesUnderFaults(RuleBasedStateMachine):
    """Random commands and faults; never a GPU twice, and at the end all is as it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.cluster = Cluster()

    def teardown(self) -> None:
        cluster = self.cluster
        try:
            cluster.cut_off.clear()
            cluster.silent.clear()
            for name in cluster.nodes:
                cluster.change(name, cordoned=False, draining=False, set_aside={})
            self._settle_and_check()
            for key in list(cluster.sessions):
                cluster.terminate(key)
            self._settle_and_check()
            assert not list(cluster.leases())
            assert all(not engine.replicas for engine in cluster.engines.values())
            assert all(s.state is SessionState.ENDED for s in cluster.sessions.values())
        finally:
            self.loop.close()
            asyncio.set_event_loop(None)

    def _settle_and_check(self) -> None:
        cluster = self.cluster
        for _ in range(80):
            cluster.run_pass()
            self.no_gpu_is_used_twice()
            cluster.now += 2.0
        running = {i for name in cluster.engines for i in cluster.on(name)}
        placed = {
            r.id
            for of_one in cluster.replicas.values()
            for r in of_one.values()
            if r.phase is _P.READY
        }
        assert running == placed
        for key, session in cluster.sessions.items():
            if session.state is SessionState.ACTIVE:
                live = cluster.live(key)
                assert {r.index for r in live} == set(range(session.desired))
                assert len(live) == session.desired
                assert all(r.phase in {_P.READY, _P.PENDING} for r in live)

    @rule(
        count=st.integers(0, 3),
        types=st.sampled_from([(T4,), (A100,), (T4, A100)]),
        desired=st.integers(1, 2),
        service=st.sampled_from(["good", "good", "stubborn", "crashes"]),
    )
    def create(self, count: int, types: tuple[str, ...], desired: int, service: str) -> None:
        needs = Needs(gpus=count, hardware_types=types if count else ())
        self.cluster.add(needs, desired=desired, service=service)

    @precondition(lambda self: self.cluster.sessions)
    @rule(data=st.data())
    def terminate(self, data: st.DataObject) -> None:
        self.cluster.terminate(data.draw(st.sampled_from(sorted(self.cluster.sessions))))

    @rule(passes=st.integers(1, 4))
    def step(self, passes: int) -> None:
        for _ in range(passes):
            self.cluster.run_pass()
            self.no_gpu_is_used_twice()

    @rule(steps=st.integers(0, 6))
    def die_in_a_pass(self, steps: int) -> None:
        self.cluster.steps_left = steps
        try:
            self.cluster.run_pass()
        except _DiedError:
            self.cluster.die()
        self.cluster.steps_left = None

    @rule(seconds=st.floats(0.01, 90))
    def pass_time(self, seconds: float) -> None:
        self.cluster.now += seconds

    @rule(name=st.sampled_from(sorted(GPUS)))
    def cut_off(self, name: str) -> None:
        self.cluster.cut_off.add(name)

    @rule(name=st.sampled_from(sorted(GPUS)))
    def reach_again(self, name: str) -> None:
        self.cluster.cut_off.discard(name)

    @rule(name=st.sampled_from(sorted(GPUS)))
    def fall_silent(self, name: str) -> None:
        self.cluster.silent.setdefault(name, self.cluster.now)

    @rule(name=st.sampled_from(sorted(GPUS)))
    def answer(self, name: str) -> None:
        self.cluster.silent.pop(name, None)

    @rule(name=st.sampled_from(sorted(GPUS)), draining=st.booleans())
    def drain(self, name: str, draining: bool) -> None:
        self.cluster.change(name, draining=draining)

    @rule(name=st.sampled_from(sorted(GPUS)), broken=st.booleans())
    def gpu_breaks(self, name: str, broken: bool) -> None:
        self.cluster.change(name, set_aside={"0": "it does not answer"} if broken else {})

    @rule(data=st.data(), code=st.sampled_from([0, 1, 137]))
    def replica_exits(self, data: st.DataObject, code: int) -> None:
        running = [(n, i) for n in self.cluster.engines for i in self.cluster.on(n)]
        if running:
            name, replica_id = data.draw(st.sampled_from(sorted(running)))
            self.cluster.drivers[name].exit(replica_id, code)

    @rule(name=st.sampled_from(sorted(GPUS)), number=st.integers(0, 3))
    def machine_restarts(self, name: str, number: int) -> None:
        """All containers of a node end, whether it can be reached or not."""
        for replica_id in self.cluster.on(name)[:number]:
            self.cluster.drivers[name].exit(replica_id, 137)

    @invariant()
    def no_gpu_is_used_twice(self) -> None:
        cluster = self.cluster
        for engine in cluster.engines.values():
            used = [
                gpu for fake in engine.replicas.values() if fake.seen.running for gpu in fake.gpus
            ]
            assert len(used) == len(set(used))

    @invariant()
    def no_gpu_is_leased_twice(self) -> None:
        leased = [(node, gpu) for node, gpu, _ in self.cluster.leases()]
        assert len(leased) == len(set(leased))

    @invariant()
    def what_runs_with_gpus_has_leases(self) -> None:
        cluster = self.cluster
        leased = {(node, gpu): replica.id for node, gpu, replica in cluster.leases()}
        for name, engine in cluster.engines.items():
            for replica_id, fake in engine.replicas.items():
                for gpu in fake.gpus:
                    assert leased.get((name, gpu)) == replica_id

    @invariant()
    def every_replica_has_what_it_needs(self) -> None:
        cluster = self.cluster
        for key, of_one in cluster.replicas.items():
            needs = cluster.sessions[key].needs
            for replica in of_one.values():
                if replica.holds_node:
                    assert len(replica.gpus) == needs.gpus


NodesUnderFaults.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None
)
TestNodesUnderFaults = NodesUnderFaults.TestCase


def gpus(count: int, *types: str) -> Needs:
    return Needs(gpus=count, hardware_types=types or (T4,))


def ready(cluster: Cluster, key: str) -> list[str]:
    return sorted(r.node for r in cluster.live(key) if r.phase is _P.READY)


async def test_replicas_wait_a_moment_for_a_silent_node_rather_than_crowd_the_others() -> None:
    cluster = Cluster({"n1": (T4, T4), "n2": (T4, T4), "n3": (T4, T4)})
    cluster.settle(1, 0)
    cluster.silent["n1"] = cluster.now
    cluster.now += 0.5
    key, other = cluster.add(gpus(1), desired=3), cluster.add(gpus(1))
    plan = cluster.run_pass()
    assert plan.wake_at == cluster.silent["n1"] + POLICY.silent_node
    cluster.settle(3, 0.1)
    assert ready(cluster, key) == ["n2", "n3"]
    # Who has no replica yet does not wait.
    assert len(ready(cluster, other)) == 1
    (waiting,) = (r for r in cluster.live(key) if r.phase is _P.PENDING)
    assert waiting.reason is Reason.NONE
    cluster.silent.clear()
    cluster.settle(3, 0.1)
    assert ready(cluster, key) == ["n1", "n2", "n3"]


async def test_a_node_that_stays_silent_is_not_waited_for_any_more() -> None:
    cluster = Cluster({"n1": (T4, T4), "n2": (T4, T4)})
    cluster.settle(1, 0)
    cluster.silent["n1"] = cluster.now
    key = cluster.add(gpus(1), desired=2)
    large = cluster.add(gpus(2))
    cluster.settle(2, 0.1)
    assert ready(cluster, key) == ["n2"]
    cluster.now = cluster.silent["n1"] + POLICY.silent_node
    cluster.settle(3, 0.1)
    assert ready(cluster, key) == ["n2", "n2"]
    (waiting,) = cluster.live(large)
    assert "n1: cannot be reached: it has not answered yet" in waiting.message


async def test_a_replica_of_a_node_that_is_emptied_stays_while_its_new_node_is_awaited() -> None:
    cluster = Cluster({"n1": (T4,), "n2": (T4,)})
    key = cluster.add(gpus(1))
    cluster.settle(3)
    (home,) = ready(cluster, key)
    away = "n2" if home == "n1" else "n1"
    cluster.silent[away] = cluster.now
    cluster.change(home, draining=True)
    cluster.settle(2, 0.1)
    assert ready(cluster, key) == [home]
    cluster.silent.clear()
    cluster.settle(8)
    assert ready(cluster, key) == [away]


async def test_a_lost_node_is_left_after_its_grace_and_cleared_before_its_gpus_are_given() -> None:
    cluster = Cluster({"n1": (T4,), "n2": (T4,)})
    key = cluster.add(gpus(1))
    cluster.settle(3)
    (first,) = cluster.live(key)
    other = "n2" if first.node == "n1" else "n1"
    cluster.cut_off.add(first.node)
    cluster.run_pass()
    cluster.now += POLICY.node_grace - 1
    cluster.run_pass()
    assert cluster.live(key) == [first]
    cluster.now += 1
    cluster.settle(3)
    assert ready(cluster, key) == [other]
    lost = cluster.replicas[key][first.id]
    assert (lost.phase, lost.reason, lost.removed) == (_P.FAILED, Reason.NODE_LOST, False)
    assert first.node in lost.message
    # A node that is away gives nothing, and one that is back not before it is clear.
    waiting = cluster.add(gpus(1))
    cluster.settle(3)
    assert ready(cluster, waiting) == []
    cluster.cut_off.clear()
    cluster.run_pass()
    assert cluster.on(first.node) == []
    assert cluster.live(waiting)[0].phase is _P.PENDING
    cluster.settle(4)
    assert ready(cluster, waiting) == [first.node]
    assert ready(cluster, key) == [other]


async def test_a_session_that_ends_while_its_node_is_lost_keeps_its_gpus_until_they_are_seen() -> (
    None
):
    cluster = Cluster({"n1": (T4,)})
    key = cluster.add(gpus(1))
    cluster.settle(3)
    cluster.cut_off.add("n1")
    cluster.terminate(key)
    cluster.settle(20, 20)
    assert cluster.sessions[key].state is SessionState.ENDING
    assert [(node, gpu) for node, gpu, _ in cluster.leases()] == [("n1", "0")]
    cluster.cut_off.clear()
    cluster.settle(8)
    assert cluster.sessions[key].state is SessionState.ENDED
    assert not list(cluster.leases())


async def test_losing_nodes_is_no_failure_of_the_session() -> None:
    cluster = Cluster({"n1": (T4,), "n2": (T4,), "n3": (T4,), "n4": (T4,), "n5": (T4,)})
    key = cluster.add(gpus(1))
    cluster.refused.update(f"r{n:05}" for n in range(4))
    for _ in range(4):
        cluster.run_pass()
        cluster.cut_off.add(cluster.live(key)[0].node)
        cluster.settle(3)
        cluster.now += POLICY.node_grace
        cluster.run_pass()
    cluster.settle(3)
    assert len(ready(cluster, key)) == 1
    assert cluster.live(key)[0].failures == 0


async def test_draining_starts_the_new_one_first_and_moves_one_after_the_other() -> None:
    cluster = Cluster({"n1": (T4, T4, T4)})
    keys = [cluster.add(gpus(1)) for _ in range(3)]
    cluster.settle(3)
    cluster.nodes["n2"] = replace(cluster.nodes["n1"], name="n2", driver="docker/n2")
    cluster.engines["n2"] = FakeEngine()
    cluster.drivers["n2"] = cluster._driver("n2")
    cluster.change("n1", draining=True)
    most = 0
    for _ in range(40):
        cluster.run_pass()
        assert all(ready(cluster, key) for key in keys), "one that serves is always there"
        both = sum(len(cluster.live(key)) == 2 for key in keys)
        most = max(most, both)
        cluster.now += 1
    assert most == 1
    assert [ready(cluster, key) for key in keys] == [["n2"]] * 3
    assert cluster.on("n1") == []


async def test_draining_stops_first_where_there_is_no_room() -> None:
    cluster = Cluster({"n1": (T4,), "n2": (A100,)})
    key = cluster.add(gpus(1))
    cluster.settle(3)
    cluster.change("n1", draining=True)
    cluster.settle(6)
    assert cluster.on("n1") == []
    (waiting,) = cluster.live(key)
    assert waiting.phase is _P.PENDING
    assert "n1: is draining" in waiting.message
    cluster.change("n1", draining=False)
    cluster.settle(3)
    assert ready(cluster, key) == ["n1"]


async def test_a_drain_that_is_called_off_leaves_what_has_not_moved() -> None:
    cluster = Cluster({"n1": (T4,), "n2": (T4,)})
    key = cluster.add(gpus(1))
    cluster.settle(3)
    (first,) = cluster.live(key)
    other = "n2" if first.node == "n1" else "n1"
    cluster.drivers[other].behaviours["good"] = Behaviour(exit_code=1)
    cluster.change(first.node, draining=True)
    cluster.settle(6)
    assert ready(cluster, key) == [first.node]
    cluster.change(first.node, draining=False)
    cluster.settle(6)
    assert cluster.live(key) == [cluster.replicas[key][first.id]]
    assert not cluster.run_pass().decides


async def test_a_failed_gpu_is_left_and_not_given_again() -> None:
    cluster = Cluster({"n1": (T4, T4)})
    key = cluster.add(gpus(1))
    cluster.settle(3)
    (first,) = cluster.live(key)
    cluster.change("n1", set_aside={first.gpus[0]: "fell off the bus"})
    cluster.settle(12)
    (second,) = [r for r in cluster.live(key) if r.phase is _P.READY]
    assert second.gpus != first.gpus
    left = cluster.replicas[key][first.id]
    assert (left.phase, left.reason) == (_P.FAILED, Reason.GPU_FAILED)
    assert "fell off the bus" in left.message
    assert second.failures == 0


@pytest.mark.parametrize(
    ("reason", "elsewhere"), [(Reason.DISK_FULL, True), (Reason.REPLICA_EXITED, False)]
)
async def test_what_failed_by_its_node_is_tried_elsewhere(reason: Reason, elsewhere: bool) -> None:
    # The first node has the fewest GPUs, and is chosen again unless there is a reason.
    cluster = Cluster({"n1": (T4,), "n2": (T4, T4)})
    key = cluster.add(gpus(1))
    cluster.settle(3)
    (first,) = cluster.live(key)
    assert first.node == "n1"
    cluster.drivers["n1"].exit(first.id, 1)
    failed = first.moved(_P.FAILED, cluster.now, reason=reason, message="as the test says")
    cluster.replicas[key][first.id] = failed
    cluster.settle(12)
    (second,) = cluster.live(key)
    assert second.phase is _P.READY
    assert second.node == ("n2" if elsewhere else "n1")


async def test_a_node_that_failed_is_better_than_none() -> None:
    cluster = Cluster({"n1": (T4,), "n2": (T4,)})
    others = cluster.add(gpus(1))
    key = cluster.add(gpus(1))
    cluster.settle(3)
    (first,) = cluster.live(key)
    cluster.drivers[first.node].exit(first.id, 1)
    failed = first.moved(_P.FAILED, cluster.now, reason=Reason.DISK_FULL, message="full")
    cluster.replicas[key][first.id] = failed
    cluster.settle(12)
    assert [r.node for r in cluster.live(key)] == [first.node]
    assert ready(cluster, others)


async def test_a_crash_loop_says_so_with_count_and_exit_code() -> None:
    cluster = Cluster({"n1": (T4,)})
    key = cluster.add(gpus(1))
    cluster.settle(3)
    for _ in range(5):
        cluster.drivers["n1"].exit(cluster.on("n1")[0], 3)
        cluster.run_pass()
        (waiting,) = cluster.live(key)
        looping = waiting.failures >= POLICY.crash_loop
        assert (waiting.reason is Reason.CRASH_LOOP) == looping
        if looping:
            assert f"failed {waiting.failures} times in a row" in waiting.message
            assert "exit code: 3" in waiting.message
        cluster.now = waiting.retry_at or cluster.now
        cluster.settle(3, 0.01)


async def test_twelve_sessions_on_eight_gpus_of_two_types() -> None:
    cluster = Cluster({"n1": (T4, T4, T4), "n2": (T4, A100), "n3": (A100, A100, A100)})
    wanted = [
        gpus(count, kind)
        for count, kind in [
            (1, T4), (2, A100), (1, T4), (3, A100), (2, T4), (1, A100),
            (3, T4), (1, A100), (1, T4), (2, T4), (1, A100), (1, T4),
        ]
    ]  # fmt: skip
    keys = []
    for needs in wanted:
        keys.append(cluster.add(needs))
        cluster.now += 0.001
    ended: set[str] = set()
    order: list[str] = []
    while len(ended) < len(keys):
        cluster.settle(4)
        leased = [(node, gpu) for node, gpu, _ in cluster.leases()]
        assert len(leased) == len(set(leased))
        for key in keys:
            for replica in cluster.live(key) if key not in ended else ():
                if replica.phase is _P.PENDING:
                    assert replica.reason is Reason.INSUFFICIENT_CAPACITY
                    assert "needed" in replica.message
        up = [key for key in keys if key not in ended and ready(cluster, key)]
        order += [key for key in up if key not in order]
        assert up, "something runs as long as something waits"
        cluster.terminate(up[0])
        cluster.settle(8)
        ended.add(up[0])
    assert sorted(order) == keys
