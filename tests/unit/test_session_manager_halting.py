"""For which drivers the end of a session manager waits, where its replicas end with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from podbay_session_manager.drivers.contract import ObservedReplica
from podbay_session_manager.halting import awaited_drivers
from podbay_session_manager.machine import ReplicaPhase
from podbay_session_manager.plan_input import World
from podbay_session_manager.records import ReplicaRecord

RUNNING = ObservedReplica("r1", "s1", running=True)
STOPPING = ReplicaRecord(
    id="r1",
    session_id="s1",
    index=0,
    attempt=1,
    driver="docker/n1",
    created_at=0.0,
    transition_at=0.0,
    phase=ReplicaPhase.STOPPING,
)
GONE = replace(STOPPING, phase=ReplicaPhase.STOPPED, removed=True)
HELD = replace(STOPPING, phase=ReplicaPhase.STOPPED)


def world(record: ReplicaRecord | None, listed: Mapping[str, ObservedReplica] | None) -> World:
    replicas = {} if record is None else {"s1": {record.id: record}}
    return World({}, replicas, {"docker/n1": listed, "docker/n2": {}})


@pytest.mark.parametrize(
    ("record", "listed", "kind", "awaited"),
    [
        (GONE, {}, "", False),
        # Nothing is recorded of it, as of what a killed session manager left.
        (None, {"r1": RUNNING}, "", True),
        (STOPPING, {}, "", True),
        (HELD, {}, "", True),
        (GONE, {}, "starting", True),
        # One that has not answered may hold anything.
        (None, None, "unheard", True),
        (None, None, "", False),
        (STOPPING, None, "", True),
        (STOPPING, None, "given_up", False),
    ],
)
def test_who_holds_replicas_or_may_is_waited_for(
    record: ReplicaRecord | None,
    listed: Mapping[str, ObservedReplica] | None,
    kind: str,
    awaited: bool,
) -> None:
    kinds = {name: ["docker/n1"] if name == kind else [] for name in ("starting", "unheard")}
    found = awaited_drivers(
        world(record, listed), **kinds, given_up=["docker/n1"] if kind == "given_up" else []
    )
    assert found == ({"docker/n1"} if awaited else set())


def test_a_driver_that_is_off_is_not_waited_for() -> None:
    elsewhere = replace(STOPPING, driver="process")
    assert not awaited_drivers(world(elsewhere, {}), starting=[], unheard=[], given_up=[])
