"""Sessions of accounts with quotas: what is used never passes a limit, and nobody starves."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from podbay_kit.quotas import GPU_PREFIX, Quota
from podbay_session_manager import commands
from podbay_session_manager.codec import read_replica, read_session, write_record
from podbay_session_manager.declared_nodes import DeclaredGpu
from podbay_session_manager.drivers.contract import ObservedReplica
from podbay_session_manager.machine import ReplicaPhase, SessionState
from podbay_session_manager.plan import plan_pass
from podbay_session_manager.plan_input import (
    NodeRecord,
    ProbeState,
    RemoveReplica,
    StartReplica,
    StopReplica,
    World,
)
from podbay_session_manager.policy import Policy
from podbay_session_manager.quotas import Charge, Ledger, charge_of, is_let_in, usage_of
from podbay_session_manager.records import (
    Needs,
    Reason,
    ReplicaRecord,
    ServiceSpec,
    Serving,
    SessionRecord,
)

T4, A100 = "nvidia.com/gpu-t4", "nvidia.com/gpu-a100"
ACCOUNTS = ("one", "two")
WAITS = Reason.QUOTA_LIMIT.camel


def node(name: str, kind: str, gpus: int) -> NodeRecord:
    return NodeRecord(
        name, "fake", gpus=tuple(DeclaredGpu(f"{name}{n}", kind, 0) for n in range(gpus))
    )


NODES = (node("n", T4, 3), node("m", A100, 3), node("plain", "", 0))


class Installation:
    """The records as they are stored, and what the engine has."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.ids = itertools.count()
        self.sessions: dict[str, SessionRecord] = {}
        self.replicas: dict[str, dict[str, ReplicaRecord]] = {}
        self.engine: dict[str, ObservedReplica] = {}
        self.quotas: dict[str, Quota] = {}

    def create(self, account: str, desired: int, gpus: int, types: tuple[str, ...]) -> None:
        self.now += 0.001
        needs = Needs(gpus=gpus, hardware_types=types if gpus else ())
        name = f"s{next(self.ids):04}"
        self.sessions[name] = SessionRecord(
            id=name,
            account=account,
            service=ServiceSpec(kind="container", name="x", image="i"),
            serving=Serving(),
            driver="fake",
            desired=desired,
            created_at=self.now,
            needs=needs,
        )
        self.replicas[name] = {}

    def used(self, account: str) -> Charge:
        return usage_of(account, self.sessions, self.replicas, self.quotas.get(account, Quota()))

    def let_in(self) -> set[str]:
        return {
            key
            for key, one in self.sessions.items()
            if is_let_in(one, self.replicas[key].values(), self.quotas.get(one.account, Quota()))
        }

    def run_pass(self) -> None:
        """Plan, store what was decided as the store does, act."""
        world = World(
            sessions=self.sessions,
            replicas=self.replicas,
            observed={"fake": dict(self.engine)},
            probes={key: ProbeState(answered=True) for key in self.engine},
            drained=frozenset(self.engine),
            nodes=NODES,
            quotas={a: quota for a, quota in self.quotas.items() if quota.limits},
        )
        plan = plan_pass(world, self.now, Policy(), new_id=lambda: f"r{next(self.ids):04}")
        for session in plan.sessions.values():
            self.sessions[session.id] = read_session(write_record(session))
        for replica in plan.replicas.values():
            self.replicas[replica.session_id][replica.id] = read_replica(write_record(replica))
        for replica_id, session_id in plan.forgotten.items():
            del self.replicas[session_id][replica_id]
        for action in plan.actions:
            match action:
                case StartReplica(replica_id, session_id, _):
                    self.engine.setdefault(
                        replica_id,
                        ObservedReplica(replica_id, session_id, running=True, host="h", port=1),
                    )
                case StopReplica(replica_id):
                    seen = self.engine.get(replica_id)
                    if seen is not None:
                        self.engine[replica_id] = replace(seen, running=False, exit_code=0)
                case RemoveReplica(replica_id):
                    self.engine.pop(replica_id, None)
        for key, session in list(self.sessions.items()):
            if session.state is SessionState.ENDED:
                del self.sessions[key], self.replicas[key]


def fits(charge: Charge, quota: Quota) -> bool:
    return all(charge.get(name, 0) <= limit for name, limit in quota.limits.items())


limit = st.none() | st.integers(0, 5)


class Quotas(RuleBasedStateMachine):
    """Random sessions, failures and quotas."""

    def __init__(self) -> None:
        super().__init__()
        self.all = Installation()

    @rule(
        account=st.sampled_from(ACCOUNTS),
        desired=st.integers(1, 3),
        gpus=st.integers(0, 2),
        types=st.sampled_from([(T4,), (A100,), (T4, A100), (A100, T4)]),
    )
    def create(self, account: str, desired: int, gpus: int, types: tuple[str, ...]) -> None:
        self.all.create(account, desired, gpus, types)

    @rule(
        account=st.sampled_from(ACCOUNTS),
        sessions=limit,
        replicas=limit,
        gpus=st.dictionaries(st.sampled_from([T4, A100]), st.integers(0, 4)),
    )
    def set_quota(
        self, account: str, sessions: int | None, replicas: int | None, gpus: dict[str, int]
    ) -> None:
        running = self._wanted_and_running()
        self.all.quotas[account] = Quota(sessions=sessions, replicas=replicas, gpus=gpus)
        self.check_pass()
        assert running <= self._wanted_and_running(), "a lower quota stops nothing that runs"

    def _wanted_and_running(self) -> set[str]:
        return {
            key
            for key, seen in self.all.engine.items()
            if seen.running
            and seen.session_id in self.all.sessions
            and self.all.sessions[seen.session_id].state is SessionState.ACTIVE
        }

    @rule(index=st.integers(0, 50))
    def fail(self, index: int) -> None:
        """Let a replica end by itself, sometime after it was ready."""
        living = [key for key, seen in self.all.engine.items() if seen.running]
        if living:
            key = living[index % len(living)]
            self.all.engine[key] = replace(self.all.engine[key], running=False, exit_code=1)

    @rule(index=st.integers(0, 50))
    def terminate(self, index: int) -> None:
        if self.all.sessions:
            key = sorted(self.all.sessions)[index % len(self.all.sessions)]
            self.all.sessions[key] = commands.terminate(self.all.sessions[key], self.all.now)

    @rule(seconds=st.sampled_from([0.1, 5.0, 100.0]))
    def look(self, seconds: float) -> None:
        self.all.now += seconds
        self.check_pass()

    def check_pass(self) -> None:
        here = self.all
        before = {account: here.used(account) for account in ACCOUNTS}
        were_in, waited = here.let_in(), dict(here.sessions)
        here.run_pass()
        for account in ACCOUNTS:
            quota = here.quotas.get(account, Quota())
            used = here.used(account)
            for name, most in quota.limits.items():
                assert used.get(name, 0) <= max(most, before[account].get(name, 0)), name
        self._check_order(here.let_in() - were_in, waited)

    def _check_order(self, new: set[str], sessions: dict[str, SessionRecord]) -> None:
        """What came later takes nothing that one lacks which waits longer."""
        here = self.all
        for key in new:
            mine = here.sessions[key]
            charge = charge_of(mine, here.replicas[key].values())
            for older in here.sessions.values():
                quota = here.quotas.get(older.account, Quota())
                if (
                    older.account != mine.account
                    or older.status_reason != WAITS
                    or older.state is not SessionState.ACTIVE
                    or (older.created_at, older.id) > (mine.created_at, mine.id)
                    or len(older.needs.hardware_types) > 1
                    or not fits(charge_of(older), quota)
                ):
                    continue
                ledger = Ledger({older.account: quota})
                ledger.take(older.account, here.used(older.account))
                for lack in ledger.shortages(older.account, charge_of(older)):
                    assert not charge.get(lack.name), (key, older.id, lack)
        assert new <= set(sessions)

    @invariant()
    def what_runs_is_counted(self) -> None:
        here = self.all
        for account in ACCOUNTS:
            runs: Counter[str] = Counter()
            for key, session in here.sessions.items():
                if session.account != account:
                    continue
                placed = {
                    replica.index: replica
                    for replica in here.replicas[key].values()
                    if not replica.phase.ended and replica.phase is not ReplicaPhase.PENDING
                }
                assert not placed or session.status_reason != WAITS, "nothing of it runs"
                for replica in placed.values():
                    runs["replicas"] += 1
                    if replica.gpus:
                        runs[GPU_PREFIX + replica.gpu_type] += len(replica.gpus)
            used = here.used(account)
            assert all(count <= used.get(name, 0) for name, count in runs.items()), (runs, used)

    def teardown(self) -> None:
        """Everything that may begin at all begins, once those before it have ended."""
        here = self.all
        begun: set[str] = set()
        for _ in range(4 * len(here.sessions) + 8):
            here.now += 200.0
            self.check_pass()
            begun |= here.let_in()
            for key in here.let_in():
                if here.sessions[key].state is SessionState.ACTIVE:
                    here.sessions[key] = commands.terminate(here.sessions[key], here.now)
        for key, session in here.sessions.items():
            quota = here.quotas.get(session.account, Quota())
            types = session.needs.hardware_types or ("",)
            possible = any(fits(charge_of(session, gpu_type=kind), quota) for kind in types)
            assert not possible, f"{key} could begin, and waits: {session.status_message}"
            assert session.status_reason == WAITS
            assert "more than the account may have at all" in (session.status_message or "")


Quotas.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestQuotas = Quotas.TestCase
