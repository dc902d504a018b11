"""Routes, acknowledgements and announcements, without sockets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from podbay.v1 import errors_pb2
from podbay.v1 import session_manager_service_pb2 as pb
from podbay_session_manager.announcer import Announcer
from podbay_session_manager.commands import terminate
from podbay_session_manager.machine import ReplicaPhase
from podbay_session_manager.records import (
    Reason,
    ReplicaRecord,
    ServiceSpec,
    Serving,
    SessionRecord,
)
from podbay_session_manager.route_acks import RouteAcks
from podbay_session_manager.routes import RouteTable, build_route

SESSION = SessionRecord(
    id="s1",
    account="acme",
    service=ServiceSpec(kind="mock", name="m"),
    serving=Serving(max_concurrency=4, safe_to_retry=True),
    driver="process",
    desired=1,
    created_at=100.0,
    expires=500.0,
    epoch=3,
)
READY = ReplicaRecord(
    id="r1",
    session_id="s1",
    index=0,
    attempt=1,
    driver="process",
    created_at=100.0,
    transition_at=101.0,
    phase=ReplicaPhase.READY,
    host="127.0.0.1",
    port=8000,
    ready_at=101.0,
)
FAILED = replace(
    READY,
    id="r0",
    phase=ReplicaPhase.FAILED,
    reason=Reason.REPLICA_EXITED,
    message="it ended",
    exit_code=3,
    log_tail=("x" * 5000, "the end"),
)


def route(session_id: str, epoch: int = 1) -> pb.Route:
    return pb.Route(session_id=session_id, epoch=epoch)


def test_a_route_holds_what_a_router_needs() -> None:
    built = build_route(SESSION, [READY, FAILED])
    assert built.state == pb.ROUTE_STATE_OPEN
    assert [(e.replica_id, e.host, e.port) for e in built.endpoints] == [("r1", "127.0.0.1", 8000)]
    assert (built.epoch, built.max_concurrency, built.safe_to_retry) == (3, 4, True)
    assert built.expires.ToSeconds() == 500


def test_a_route_without_replicas_carries_bounded_evidence() -> None:
    built = build_route(SESSION, [FAILED])
    assert not built.endpoints
    assert built.evidence["reason"] == "REPLICA_EXITED"
    assert built.evidence["exitCode"] == "3"
    assert built.evidence["log"].endswith("the end")
    assert sum(len(k) + len(v.encode()) for k, v in built.evidence.items()) <= 2048
    assert "it ended" in built.message


def test_the_route_of_an_ended_session_says_why() -> None:
    built = build_route(terminate(SESSION, 200.0), [READY])
    assert built.state == pb.ROUTE_STATE_ENDED
    assert built.ended_reason == errors_pb2.ERROR_REASON_SESSION_TERMINATED
    assert not built.endpoints


def test_a_long_message_is_cut_within_its_bytes() -> None:
    long = replace(terminate(SESSION, 200.0), status_message="é" * 4000)
    assert len(build_route(long, []).message.encode()) <= 2048


def test_the_table_tells_changes_and_removals() -> None:
    table = RouteTable(1000, keep_ended_for=10)
    assert table.put(route("a"))
    assert not table.put(route("a"))
    first = table.revision
    assert table.since(first) is None
    table.put(route("b"))
    table.put(route("a", 2), ended_at=50)
    changes = table.since(first)
    assert changes is not None
    assert [(r.session_id, r.epoch) for r in changes.routes] == [("b", 1), ("a", 2)]
    assert not changes.snapshot
    table.expire(59)
    assert {r.session_id for r in table.snapshot().routes} == {"a", "b"}
    table.expire(60)
    later = table.since(changes.revision)
    assert later is not None
    assert list(later.removed) == ["a"]
    assert {r.session_id for r in table.snapshot().routes} == {"b"}


def test_a_revision_of_another_process_gets_a_snapshot() -> None:
    table = RouteTable(1000)
    table.put(route("a"))
    for revision in (5, 10_000):
        changes = table.since(revision)
        assert changes is not None
        assert changes.snapshot


def test_only_so_many_ended_routes_are_kept() -> None:
    table = RouteTable(1, keep_ended=3)
    for number in range(10):
        table.put(route(f"s{number}"), ended_at=float(number))
    table.expire(0)
    assert [r.session_id for r in table.snapshot().routes] == ["s7", "s8", "s9"]


def test_without_watches_everything_is_settled() -> None:
    assert RouteAcks().settled(5, 0)


def test_every_live_watch_must_acknowledge() -> None:
    acks = RouteAcks()
    acks.open("a", 0)
    acks.open("b", 0)
    acks.acknowledge("a", 5, 5, 0.1)
    assert not acks.settled(5, 0.1)
    acks.acknowledge("b", 4, 5, 0.1)
    assert acks.settled(4, 0.1)
    assert not acks.settled(5, 0.1)
    acks.close("b")
    assert acks.settled(5, 0.1)


def test_a_watch_that_owes_its_word_for_long_is_away() -> None:
    acks = RouteAcks(away_after=2)
    acks.open("a", 0)
    acks.acknowledge("a", 5, 5, 0)
    acks.publish(10)
    assert acks.next_change(10) == 12
    assert not acks.settled(6, 11.9)
    assert acks.settled(6, 12)
    assert acks.next_change(12) is None
    # It comes back with its next word.
    acks.acknowledge("a", 6, 7, 13)
    assert not acks.settled(7, 13.1)


def test_a_router_cannot_be_ahead() -> None:
    acks = RouteAcks()
    acks.open("a", 0)
    acks.acknowledge("a", 1_000_000, 5, 0)
    acks.publish(1)
    assert not acks.settled(6, 1)


def test_unknown_watches_do_not_matter() -> None:
    acks = RouteAcks()
    acks.acknowledge("gone", 5, 5, 0)
    assert acks.settled(9, 0)


def announcer() -> tuple[Announcer, RouteAcks]:
    acks = RouteAcks()
    return Announcer(RouteTable(0), acks), acks


def test_ready_and_drained_wait_for_the_routers() -> None:
    told, acks = announcer()
    acks.open("a", 0)
    told.update(SESSION, {"r1": READY}, 101, 0)
    assert told.settle(0) == set()
    assert not told.is_ready("r1")
    acks.acknowledge("a", told.table.revision, told.table.revision, 0)
    assert told.settle(0) == {"s1"}
    assert told.is_ready("r1")
    draining = READY.moved(ReplicaPhase.DRAINING, 102, deadline=104)
    told.update(SESSION, {"r1": draining}, 102, 1)
    assert not told.is_ready("r1")
    told.settle(1)
    assert told.drained == frozenset()
    acks.acknowledge("a", told.table.revision, told.table.revision, 1)
    assert told.settle(1) == {"s1"}
    assert told.drained == {"r1"}
    told.forget("r1")
    assert told.drained == frozenset()


def test_what_was_long_ready_stays_ready_over_a_restart() -> None:
    told, acks = announcer()
    acks.expect_reconnects(0)
    fresh = replace(READY, id="r2", index=1, ready_at=199.5)
    told.restore(SESSION, {"r1": READY, "r2": fresh}, 200, 0)
    told.settle(0)
    assert told.is_ready("r1")
    assert not told.is_ready("r2")
    # A router comes, and then a moment passes in which others may come.
    acks.open("a", 3)
    acks.acknowledge("a", told.table.revision, told.table.revision, 3)
    told.settle(4.9)
    assert not told.is_ready("r2")
    assert acks.next_change(4.9) == 5
    told.settle(5)
    assert told.is_ready("r2")


def test_routers_that_do_not_come_back_are_not_waited_for() -> None:
    told, acks = announcer()
    acks.expect_reconnects(0)
    told.update(SESSION, {"r1": READY}, 101, 0)
    told.settle(9.9)
    assert not told.is_ready("r1")
    assert acks.next_change(9.9) == 10
    told.settle(10)
    assert told.is_ready("r1")


@pytest.mark.parametrize("phase", [ReplicaPhase.UNREADY, ReplicaPhase.FAILED])
def test_ready_is_over_at_once(phase: ReplicaPhase) -> None:
    told, _ = announcer()
    told.update(SESSION, {"r1": READY}, 101, 0)
    told.settle(0)
    assert told.is_ready("r1")
    told.update(SESSION, {"r1": READY.moved(phase, 102, deadline=110)}, 102, 0)
    assert not told.is_ready("r1")
    assert not told.table.snapshot().routes[0].endpoints
