"""Sessions under random faults: the plan, a fake engine, and a manager that dies anywhere."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from podbay_session_manager.drivers.contract import (
    DriverUnreachableError,
    LaunchSpec,
    ObservedReplica,
    StartFailedError,
)
from podbay_session_manager.drivers.fake import Behaviour, FakeDriver
from podbay_session_manager.machine import REPLICA_TRANSITIONS, ReplicaPhase, SessionState
from podbay_session_manager.plan import plan_pass
from podbay_session_manager.plan_input import (
    Action,
    FailingReplica,
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
    Reason,
    ReplicaRecord,
    ServiceSpec,
    Serving,
    SessionRecord,
)

SERVICES = ("good", "good", "crashes", "missing", "stubborn", "silent")
BEHAVIOURS = {
    "crashes": Behaviour(exit_code=1),
    "missing": Behaviour(start_reason=Reason.COMMAND_NOT_FOUND),
    "stubborn": Behaviour(ignores_stop=True),
}
POLICY = Policy()


class _DiedError(Exception):
    """The session manager died before its next step."""


def _reachable() -> set[tuple[ReplicaPhase, ReplicaPhase]]:
    """Return which phase can be seen after which, where steps in between may go unseen."""
    pairs = {(a, b) for a, after in REPLICA_TRANSITIONS.items() for b in after}
    while True:
        more = {(a, d) for a, b in pairs for c, d in pairs if b == c} - pairs
        if not more:
            return pairs
        pairs |= more


REACHABLE = _reachable()


class Manager:
    """The acting half, in miniature: it stores before it acts, and can die between two steps."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.driver = FakeDriver(lambda: self.now, behaviours=BEHAVIOURS)
        self.sessions: dict[str, SessionRecord] = {}
        self.replicas: dict[str, dict[str, ReplicaRecord]] = {}
        self.failed: dict[str, ObservedReplica] = {}
        self.cordoned = False
        self.muted: set[str] = set()
        self.failing: dict[str, FailingReplica] = {}
        self.steps_left: int | None = None
        self.ids = itertools.count()

    def _step(self) -> None:
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise _DiedError

    def run_pass(self) -> Plan:
        try:
            listed = {o.replica_id: o for o in _run(self.driver.list())}
            observed: dict[str, ObservedReplica] | None = {**self.failed, **listed}
        except DriverUnreachableError:
            observed = None
        sessions = {k: s for k, s in self.sessions.items() if s.state is not SessionState.ENDED}
        world = World(
            sessions=sessions,
            replicas={key: self.replicas[key] for key in sessions},
            observed={"fake": observed},
            probes=self._probes(observed or {}),
            nodes=(NodeRecord("local", "fake", cordoned=self.cordoned),),
            failing=dict(self.failing),
        )
        plan = plan_pass(world, self.now, POLICY, new_id=lambda: f"r{next(self.ids)}")
        self._step()
        self._check_failing(plan)
        self._store(plan)
        for action in plan.actions:
            self._step()
            self._act(action)
        return plan

    def _check_failing(self, plan: Plan) -> None:
        """Of those that fail, one at a time is replaced, and never where no other is healthy."""
        given_up: dict[str, list[str]] = {}
        for replica in plan.replicas.values():
            before = self.replicas[replica.session_id].get(replica.id)
            if replica.reason is Reason.REPLICA_FAILING and before is not None:
                assert self.failing[replica.id].set_aside or before.reason is replica.reason
                if before.phase is ReplicaPhase.READY:
                    given_up.setdefault(replica.session_id, []).append(replica.id)
        for session_id, ids in given_up.items():
            after = {**self.replicas[session_id], **plan.replicas}
            ending = [
                r.id
                for r in after.values()
                if r.session_id == session_id
                and r.reason is Reason.REPLICA_FAILING
                and not r.phase.ended
            ]
            assert ending == ids
            assert len(ids) == 1
            assert any(
                r.phase is ReplicaPhase.READY and r.id not in self.failing
                for r in after.values()
                if r.session_id == session_id
            )

    def _probes(self, observed: dict[str, ObservedReplica]) -> dict[str, ProbeState]:
        probes = {}
        for seen in observed.values():
            silent = seen.replica_id in self.muted or self._service(seen) == "silent"
            if seen.running:
                probes[seen.replica_id] = (
                    ProbeState(failures=5, seen="nothing") if silent else ProbeState(answered=True)
                )
        return probes

    def _service(self, seen: ObservedReplica) -> str:
        session = self.sessions.get(seen.session_id)
        return session.service.name if session is not None else ""

    def _store(self, plan: Plan) -> None:
        for session in plan.sessions.values():
            self.sessions[session.id] = session
        for replica in plan.replicas.values():
            before = self.replicas[replica.session_id].get(replica.id)
            if before is not None and before.phase is not replica.phase:
                assert (before.phase, replica.phase) in REACHABLE
            self.replicas[replica.session_id][replica.id] = replica
        for replica_id, session_id in plan.forgotten.items():
            del self.replicas[session_id][replica_id]

    def _act(self, action: Action) -> None:
        try:
            match action:
                case StartReplica(replica_id, session_id, _):
                    session = self.sessions[session_id]
                    if self.replicas[session_id][replica_id].phase is ReplicaPhase.STARTING:
                        _run(self.driver.start(_launch(session, replica_id)))
                case StopReplica(replica_id, _, grace):
                    _run(self.driver.stop(replica_id, grace))
                case RemoveReplica(replica_id, _):
                    self.failed.pop(replica_id, None)
                    _run(self.driver.remove(replica_id))
        except StartFailedError as error:
            assert isinstance(action, StartReplica)
            self.failed[action.replica_id] = ObservedReplica(
                replica_id=action.replica_id,
                session_id=action.session_id,
                running=False,
                reason=error.reason,
                message=error.message,
            )
        except DriverUnreachableError:
            return

    def die(self) -> None:
        """Lose what is only in memory; the engine and the store stay."""
        self.failed.clear()
        self.failing.clear()
        self.steps_left = None
        engine, unreachable = self.driver.engine, self.driver.unreachable
        self.driver = FakeDriver(lambda: self.now, engine=engine, behaviours=BEHAVIOURS)
        self.driver.unreachable = unreachable


def _launch(session: SessionRecord, replica_id: str) -> LaunchSpec:
    return LaunchSpec(replica_id, session.id, session.service, session.serving, "local")


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine of the fake, which never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the fake waited")


class SessionsUnderFaults(RuleBasedStateMachine):
    """Random commands and faults; at the end everything is as it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.manager = Manager()

    def teardown(self) -> None:
        try:
            self._settle()
            self._check_settled()
            for session in list(self.manager.sessions.values()):
                self._terminate(session)
            self._settle()
            self._check_nothing_left()
        finally:
            self.loop.close()
            asyncio.set_event_loop(None)

    @rule(
        service=st.sampled_from(SERVICES),
        desired=st.integers(1, 3),
        life=st.one_of(st.none(), st.floats(1, 200)),
    )
    def create(self, service: str, desired: int, life: float | None) -> None:
        manager = self.manager
        key = f"s{len(manager.sessions)}"
        manager.replicas[key] = {}
        manager.sessions[key] = SessionRecord(
            id=key,
            account="a",
            service=ServiceSpec(kind="mock", name=service),
            serving=Serving(start_timeout=20, stop_grace=5),
            driver="fake",
            desired=desired,
            created_at=manager.now,
            expires=None if life is None else manager.now + life,
        )

    @rule()
    def step(self) -> None:
        self.manager.run_pass()

    @rule(steps=st.integers(0, 4))
    def die_in_a_pass(self, steps: int) -> None:
        self.manager.steps_left = steps
        try:
            self.manager.run_pass()
        except _DiedError:
            self.manager.die()
        self.manager.steps_left = None

    @rule(seconds=st.floats(0.01, 90))
    def pass_time(self, seconds: float) -> None:
        self.manager.now += seconds

    @precondition(lambda self: self.manager.driver.engine.replicas)
    @rule(data=st.data(), code=st.sampled_from([0, 1, 137]))
    def replica_exits(self, data: st.DataObject, code: int) -> None:
        replica_id = data.draw(st.sampled_from(sorted(self.manager.driver.engine.replicas)))
        self.manager.driver.exit(replica_id, code)

    @precondition(lambda self: self.manager.driver.engine.replicas)
    @rule(data=st.data())
    def replica_vanishes(self, data: st.DataObject) -> None:
        engine = self.manager.driver.engine
        del engine.replicas[data.draw(st.sampled_from(sorted(engine.replicas)))]

    @precondition(lambda self: self.manager.driver.engine.replicas)
    @rule(data=st.data())
    def replica_falls_silent(self, data: st.DataObject) -> None:
        engine = self.manager.driver.engine
        self.manager.muted.add(data.draw(st.sampled_from(sorted(engine.replicas))))

    @precondition(lambda self: self.manager.driver.engine.replicas)
    @rule(data=st.data(), seconds=st.floats(0, 100), set_aside=st.booleans())
    def replica_fails_its_calls(self, data: st.DataObject, seconds: float, set_aside: bool) -> None:
        replica_id = data.draw(st.sampled_from(sorted(self.manager.driver.engine.replicas)))
        known = self.manager.failing.get(replica_id)
        since = self.manager.now - seconds if known is None else known.since
        self.manager.failing[replica_id] = FailingReplica(
            since, self.manager.now, "5 calls failed.", set_aside
        )

    @rule(unreachable=st.booleans())
    def reach(self, unreachable: bool) -> None:
        self.manager.driver.unreachable = unreachable

    @rule(cordoned=st.booleans())
    def cordon(self, cordoned: bool) -> None:
        self.manager.cordoned = cordoned

    @precondition(lambda self: self.manager.sessions)
    @rule(data=st.data())
    def terminate(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.manager.sessions)))
        self._terminate(self.manager.sessions[key])

    @rule(number=st.integers(0, 5))
    def stranger(self, number: int) -> None:
        """The engine holds something that no record speaks of."""
        if not self.manager.driver.unreachable:
            spec = LaunchSpec(
                f"x{number}", "unknown", ServiceSpec(kind="mock", name="good"), Serving()
            )
            _run(self.manager.driver.start(spec))

    @invariant()
    def passing_phases_have_deadlines(self) -> None:
        for replicas in self.manager.replicas.values():
            for replica in replicas.values():
                if replica.phase in {"STARTING", "PROBING", "UNREADY", "DRAINING", "STOPPING"}:
                    assert replica.deadline is not None

    @invariant()
    def history_stays_small(self) -> None:
        for key, replicas in self.manager.replicas.items():
            assert len(replicas) <= (POLICY.kept_replicas + 2) * self.manager.sessions[key].desired

    def _terminate(self, session: SessionRecord) -> None:
        if session.state is SessionState.ACTIVE:
            self.manager.sessions[session.id] = session.ending(
                self.manager.now,
                ended_reason=Reason.SESSION_TERMINATED,
                status="Terminated",
                status_reason="TerminateCommand",
                message="",
            )

    def _settle(self) -> None:
        """Stop the faults and let time pass."""
        manager = self.manager
        # What shall expire has expired before the look at what is left.
        manager.now += 250
        manager.driver.unreachable = False
        manager.cordoned = False
        for _ in range(60):
            manager.run_pass()
            manager.now += 2.5

    def _check_settled(self) -> None:
        manager = self.manager
        running = [o for o in _run(manager.driver.list()) if o.running]
        expected = 0
        for session in manager.sessions.values():
            if session.state is not SessionState.ACTIVE:
                assert session.state is SessionState.ENDED
                continue
            assert session.service.name in {"good", "stubborn"}
            ready = [
                r for r in manager.replicas[session.id].values() if r.phase is ReplicaPhase.READY
            ]
            assert len(ready) == session.desired
            assert {r.index for r in ready} == set(range(session.desired))
            expected += session.desired
        assert len(running) == expected

    def _check_nothing_left(self) -> None:
        assert _run(self.manager.driver.list()) == []
        for session in self.manager.sessions.values():
            assert session.state is SessionState.ENDED
            assert session.status in {"Terminated", "Error"}
            assert all(r.phase.ended for r in self.manager.replicas[session.id].values())


SessionsUnderFaults.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None
)
TestSessionsUnderFaults = SessionsUnderFaults.TestCase


def _session(desired: int = 1) -> Manager:
    manager = Manager()
    manager.sessions["s"] = SessionRecord(
        id="s",
        account="a",
        service=ServiceSpec(kind="mock", name="good"),
        serving=Serving(),
        driver="fake",
        desired=desired,
        created_at=manager.now,
    )
    manager.replicas["s"] = {}
    return manager


async def test_a_session_is_admitted_and_ready_in_two_passes() -> None:
    manager = _session(desired=2)
    manager.run_pass()
    assert manager.sessions["s"].status == "Admitted"
    manager.run_pass()
    phases = [r.phase for r in manager.replicas["s"].values()]
    assert phases == [ReplicaPhase.READY, ReplicaPhase.READY]
    assert not manager.run_pass().decides


async def test_unreachable_changes_nothing() -> None:
    manager = _session()
    manager.run_pass()
    manager.run_pass()
    before = dict(manager.replicas["s"])
    manager.driver.unreachable = True
    manager.now += 1000
    plan = manager.run_pass()
    assert not plan.actions
    assert manager.replicas["s"] == before


async def test_backoff_doubles_and_is_reset_by_a_stable_replica() -> None:
    manager = _session()
    manager.run_pass()
    manager.run_pass()
    pauses = []
    for _ in range(4):
        (live,) = [r for r in manager.replicas["s"].values() if not r.phase.ended]
        manager.driver.exit(live.id, 1)
        manager.run_pass()
        (waiting,) = [r for r in manager.replicas["s"].values() if not r.phase.ended]
        pauses.append((waiting.retry_at or manager.now) - manager.now)
        manager.now = waiting.retry_at or manager.now
        manager.run_pass()
        manager.run_pass()
        if len(pauses) == 3:
            manager.now += POLICY.stable_after
    assert [round(pause, 3) for pause in pauses] == [0.2, 0.4, 0.8, 0.0]


async def test_halting_ends_replicas_and_keeps_sessions() -> None:
    manager = _session()
    manager.run_pass()
    manager.run_pass()
    world = World(
        sessions=manager.sessions,
        replicas=manager.replicas,
        observed={"fake": {o.replica_id: o for o in await manager.driver.list()}},
        nodes=(NodeRecord("local", "fake"),),
        halting=True,
    )
    plan = plan_pass(world, manager.now, POLICY)
    assert [r.phase for r in plan.replicas.values()] == [ReplicaPhase.DRAINING]
    assert not plan.sessions


async def test_an_expired_session_says_so() -> None:
    manager = _session()
    manager.sessions["s"] = replace(manager.sessions["s"], expires=manager.now + 5)
    manager.run_pass()
    assert manager.run_pass().wake_at == manager.now + 5
    manager.now += 5
    manager.run_pass()
    session = manager.sessions["s"]
    assert (session.status, session.status_reason) == ("Terminated", "SessionExpired")
    assert session.ended_reason is Reason.SESSION_EXPIRED


async def test_a_crash_loop_keeps_a_short_history() -> None:
    manager = _session()
    manager.run_pass()
    manager.run_pass()
    for _ in range(20):
        (live,) = [r for r in manager.replicas["s"].values() if not r.phase.ended]
        manager.driver.exit(live.id, 1)
        for _ in range(4):
            manager.now += POLICY.last_backoff
            manager.run_pass()
    ended = [r for r in manager.replicas["s"].values() if r.phase.ended]
    assert len(ended) == POLICY.kept_replicas
    assert {r.attempt for r in ended} == {18, 19, 20}


async def test_an_end_that_was_stored_and_not_cleared_is_cleared_later() -> None:
    manager = _session()
    manager.run_pass()
    manager.run_pass()
    (live,) = manager.replicas["s"].values()
    manager.driver.exit(live.id, 1)
    manager.steps_left = 1
    with pytest.raises(_DiedError):
        manager.run_pass()
    manager.die()
    assert manager.replicas["s"][live.id].phase is ReplicaPhase.FAILED
    assert live.id in manager.driver.engine.replicas
    manager.run_pass()
    assert live.id not in manager.driver.engine.replicas
    manager.run_pass()
    assert manager.replicas["s"][live.id].removed
