"""When a replica is replaced whose calls fail although it answers its probe."""

from __future__ import annotations

from dataclasses import replace

import pytest

from podbay.v1 import session_manager_service_pb2 as pb
from podbay_session_manager.drivers.contract import ObservedReplica
from podbay_session_manager.machine import ReplicaPhase
from podbay_session_manager.plan import plan_pass
from podbay_session_manager.plan_input import FailingReplica, NodeRecord, Plan, ProbeState, World
from podbay_session_manager.policy import Policy
from podbay_session_manager.records import (
    Reason,
    ReplicaRecord,
    ServiceSpec,
    Serving,
    SessionRecord,
)
from podbay_session_manager.replica_reports import ReplicaReports

NOW = 1000.0
LONG = FailingReplica(NOW - 40, NOW - 1, "Its last 10 calls failed in a row.", set_aside=True)
SESSION = SessionRecord(
    id="s",
    account="acme",
    service=ServiceSpec(kind="mock", name="m"),
    serving=Serving(),
    driver="process",
    desired=2,
    created_at=0.0,
    expires=None,
    ever_ready=True,
)


def ready(name: str, index: int, **changes: object) -> ReplicaRecord:
    made = ReplicaRecord(
        id=name,
        session_id="s",
        index=index,
        attempt=1,
        driver="process",
        node="local",
        created_at=100.0,
        transition_at=100.0,
        ready_at=100.0,
        phase=ReplicaPhase.READY,
    )
    return replace(made, **changes)  # type: ignore[arg-type] # the fields of a record


def plan(
    *replicas: ReplicaRecord, now: float = NOW, tail: str = "", **failing: FailingReplica
) -> Plan:
    running = {r.id: r for r in replicas if not r.phase.ended}
    world = World(
        sessions={"s": replace(SESSION, desired=max(r.index for r in replicas) + 1)},
        replicas={"s": {r.id: r for r in replicas}},
        observed={"process": {name: ObservedReplica(name, "s", running=True) for name in running}},
        probes={name: ProbeState(answered=True) for name in running},
        tails={name: (tail,) for name in running if tail},
        nodes=(NodeRecord("local", "process"),),
        failing=failing,
    )
    return plan_pass(world, now, Policy(), new_id=iter("xyz").__next__)


def test_one_that_fails_for_long_leaves_the_routes_with_the_evidence() -> None:
    after = plan(ready("a", 0), ready("b", 1), a=LONG, tail="CUDA error").replicas["a"]
    assert (after.phase, after.reason) == (ReplicaPhase.DRAINING, Reason.REPLICA_FAILING)
    assert "Its last 10 calls failed" in after.message
    assert "for 39 s" in after.message
    assert after.log_tail == ("CUDA error",)


@pytest.mark.parametrize(
    "failing",
    [
        replace(LONG, since=NOW - 20),  # not for long
        replace(LONG, told=NOW - 39),  # not told again since
        replace(LONG, set_aside=False),  # its router knows no healthy one
    ],
)
def test_one_that_may_be_well_stays(failing: FailingReplica) -> None:
    assert "a" not in plan(ready("a", 0), ready("b", 1), a=failing).replicas


def test_the_last_healthy_one_stays() -> None:
    assert "a" not in plan(ready("a", 0), a=LONG).replicas
    assert plan(ready("a", 0), ready("b", 1), a=LONG, b=LONG).replicas == {}
    other = ready("b", 1, phase=ReplicaPhase.DRAINING, deadline=NOW + 9)
    assert "a" not in plan(ready("a", 0), other, a=LONG).replicas


def test_one_after_the_other_and_the_longest_first() -> None:
    longer = replace(LONG, since=NOW - 90)
    replicas = [ready("a", 0), ready("b", 1), ready("c", 2)]
    assert set(plan(*replicas, a=LONG, b=longer).replicas) == {"b"}
    going = ready(
        "b", 1, phase=ReplicaPhase.DRAINING, deadline=NOW + 1, reason=Reason.REPLICA_FAILING
    )
    assert plan(replicas[0], going, replicas[2], a=LONG, b=longer).replicas == {}


def test_its_end_counts_as_a_failure_and_the_next_one_waits() -> None:
    ended = ready(
        "a",
        0,
        phase=ReplicaPhase.FAILED,
        reason=Reason.REPLICA_FAILING,
        transition_at=NOW,
        ready_at=NOW - 100,  # it takes this long until one is found to fail
        failures=2,
        removed=True,
        message="Its calls failed.",
    )
    after = plan(ended, ready("b", 1))
    (following,) = [r for r in after.replicas.values() if r.attempt == 2]
    assert (following.failures, following.reason) == (3, Reason.CRASH_LOOP)
    assert following.retry_at == NOW + Policy().backoff(3)
    well = replace(ended, ready_at=NOW - 700)
    (following,) = [r for r in plan(well, ready("b", 1)).replicas.values() if r.attempt == 2]
    assert following.failures == 0


def test_reports_tell_since_when_and_a_good_call_ends_it() -> None:
    reports = ReplicaReports()
    report = pb.ReportReplicaRequest(replica_id="a", failures=5, http_status=500, set_aside=True)
    assert reports.take(report, 10.0)
    report.failures = 10
    assert reports.take(report, 50.0)
    assert not reports.take(report, 60.0), "nothing new is shown"
    # In times of day, also where that was set meanwhile.
    for ahead in (1000.0, -5000.0):
        told = reports.as_of(60.0 + ahead, 60.0)["a"]
        assert (told.since, told.told, told.set_aside) == (10.0 + ahead, 60.0 + ahead, True)
    assert "10 calls" in reports.failing("a")
    report.failures = 0
    assert reports.take(report, 70.0)
    assert (reports.as_of(0.0, 0.0), reports.failing("a")) == ({}, "")
    report.failures = 5
    reports.take(report, 80.0)
    assert reports.as_of(80.0, 80.0)["a"].since == 80.0
