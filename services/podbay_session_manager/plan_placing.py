"""Which waiting replicas are placed where, and which move from nodes that are emptied. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from podbay_session_manager.drivers.contract import ObservedReplica
from podbay_session_manager.machine import ReplicaPhase
from podbay_session_manager.placement import Fleet
from podbay_session_manager.placement_texts import waiting_text, why_waiting
from podbay_session_manager.plan_input import Scene, World
from podbay_session_manager.plan_quota import Gate, Verdict
from podbay_session_manager.plan_session import MOVABLE, SessionPass
from podbay_session_manager.policy import OF_THE_NODE
from podbay_session_manager.quotas import effective_needs, shortage_text
from podbay_session_manager.records import Needs, Reason, ReplicaRecord, SessionRecord

__all__ = ["abandoned", "fleet_of", "move_from_draining", "place_waiting", "queue_key"]

_ENDING = frozenset({ReplicaPhase.DRAINING, ReplicaPhase.STOPPING})
_WAITING_REASONS = frozenset(
    {Reason.INSUFFICIENT_CAPACITY, Reason.NO_SUCH_GPU_TYPE, Reason.NO_NODE_AVAILABLE}
)
# So many waiting replicas are told anew what is free; those behind them, only when they begin to
# wait. What is free changes with every placement, and all that is told is stored.
_TOLD_ANEW = 32


_LET_IN = Verdict()


def queue_key(session: SessionRecord, replica: ReplicaRecord) -> tuple[float, str, int]:
    """Return what orders the replicas that wait: those of older sessions come first."""
    return session.created_at, session.id, replica.index


def leftovers(world: World) -> Iterator[tuple[str, ObservedReplica]]:
    """Yield what drivers hold and no record speaks of, with the driver's name."""
    for driver, listed in world.observed.items():
        for seen in (listed or {}).values():
            replica = world.replicas.get(seen.session_id, {}).get(seen.replica_id)
            if replica is None or replica.driver != driver:
                yield driver, seen


def abandoned(world: World) -> Iterator[tuple[str, ObservedReplica]]:
    """Give what drivers hold and nobody will ever speak of, by driver.

    What another driver that is on has started is not: two drivers see it where an engine was
    declared by two names.
    """
    for driver, seen in leftovers(world):
        replica = world.replicas.get(seen.session_id, {}).get(seen.replica_id)
        if replica is None or replica.driver not in world.observed:
            yield driver, seen


def fleet_of(
    world: World,
    sessions: Mapping[str, SessionRecord],
    replicas: Mapping[str, Mapping[str, ReplicaRecord]],
    awaited: Collection[str] = (),
) -> Fleet:
    """Return the room that replicas leave on the nodes.

    Args:
        world: What is seen.
        sessions: The sessions by id.
        replicas: Their replicas by session and id.
        awaited: The drivers that are silent, and that one waits for.
    """
    # What nobody speaks of may hold any GPU of its node.
    fleet = Fleet(world.nodes, frozenset(driver for driver, _ in leftovers(world)), awaited)
    for session_id, of_session in replicas.items():
        needs = sessions[session_id].needs
        for replica in of_session.values():
            if replica.holds_node:
                fleet.hold(replica.driver, replica.node, session_id, needs, replica.gpus)
            if replica.phase is ReplicaPhase.FAILED and replica.reason in OF_THE_NODE:
                fleet.shun(replica.driver, replica.node, session_id)
    return fleet


def move_from_draining(passes: Sequence[SessionPass], scene: Scene) -> None:
    """Begin to move one replica from each node that is emptied, where none is on its way."""
    if not scene.draining:
        return
    busy: set[tuple[str, str]] = set()
    movable: dict[tuple[str, str], list[tuple[SessionPass, ReplicaRecord]]] = {}
    for one in passes:
        if not one.moves:
            continue
        for replica in one.replicas.values():
            place = (replica.driver, replica.node)
            if place not in scene.draining:
                continue
            if replica.phase in _ENDING:
                busy.add(place)
            elif replica.phase in MOVABLE:
                if one.successor(replica) is not None:
                    busy.add(place)
                movable.setdefault(place, []).append((one, replica))
    for place, candidates in movable.items():
        if place not in busy and scene.world.observed.get(place[0]) is not None:
            one, replica = min(candidates, key=lambda c: queue_key(c[0].session, c[1]))
            one.replace_elsewhere(replica)


def place_waiting(passes: Sequence[SessionPass], scene: Scene) -> None:
    """Place the replicas that wait, in their order; tell those that cannot be why."""
    queue = sorted(
        ((one, replica) for one in passes for replica in one.waiting),
        key=lambda entry: queue_key(entry[0].session, entry[1]),
    )
    if not queue:
        return
    fleet = fleet_of(
        scene.world,
        {one.session.id: one.session for one in passes},
        {one.session.id: one.replicas for one in passes},
        scene.awaited,
    )
    gate = Gate(scene.world.quotas, ((one.session, one.replicas.values()) for one in passes))
    told: dict[tuple[str, Needs], tuple[Reason, str]] = {}
    kept_out: dict[str, str] = {}
    verdict, asked = _LET_IN, ""
    waiting = 0
    for one, replica in queue:
        if one.session.id != asked:
            asked = one.session.id
            verdict = gate.ask(one.session, one.replicas.values(), fleet)
            if verdict.shortages:
                kept_out[asked] = _keep_out(one, verdict, len(kept_out) >= _TOLD_ANEW)
            elif verdict.waits is None:
                one.let_in(verdict.gpu_type)
            else:
                one.wait_for_nodes()
        if verdict.shortages:
            one.wait(replica, Reason.QUOTA_LIMIT, kept_out[asked])
            continue
        kind, needs = one.session.driver, verdict.waits or effective_needs(one.session)
        placed = None if verdict.waits else fleet.place(kind, one.session.id, needs)
        if placed is not None:
            if placed.awaited:
                # Its room is kept: those behind it look elsewhere.
                one.look_again(scene.awaited[placed.node.driver])
            else:
                one.place(replica, placed.node, placed.gpus)
            continue
        waiting += 1
        why = told.get((kind, needs))
        if why is None:
            rooms = fleet.of_kind(kind)
            why = (why_waiting(rooms, needs), waiting_text(kind, rooms, needs))
            told[(kind, needs)] = why
        if waiting > _TOLD_ANEW and replica.reason in _WAITING_REASONS:
            why = (replica.reason, replica.message)
        one.wait(replica, *why)
        fleet.keep_for(kind, needs)


def _keep_out(one: SessionPass, verdict: Verdict, many: bool) -> str:
    """Let a session wait for its account's quota; return what is told of that.

    Args:
        one: The session.
        verdict: What the quota lacks.
        many: Whether many wait before it, so that it is not told anew.
    """
    before = one.session
    if many and before.status_reason == Reason.QUOTA_LIMIT.camel and before.status_message:
        return before.status_message
    message = shortage_text(before.account, verdict.shortages)
    one.keep_out(message)
    return message
