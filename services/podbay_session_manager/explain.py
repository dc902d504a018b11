"""Where the replicas of one session go, or why they wait: node by node. Pure."""

from __future__ import annotations

from dataclasses import replace

from podbay.v1 import inference_session_pb2
from podbay_session_manager.machine import ReplicaPhase
from podbay_session_manager.model_gate import gate
from podbay_session_manager.placement import Fleet
from podbay_session_manager.placement_texts import judge, needs_text, waiting_text, why_waiting
from podbay_session_manager.plan_input import World
from podbay_session_manager.plan_placing import fleet_of, queue_key
from podbay_session_manager.plan_quota import Gate, Verdict
from podbay_session_manager.quotas import effective_needs, shortage_text
from podbay_session_manager.records import Reason, ReplicaRecord, SessionRecord
from podbay_session_manager.routes import reason_number

__all__ = ["explain_placement"]


def explain_placement(
    world: World, session: SessionRecord, now: float
) -> inference_session_pb2.PlacementExplanation:
    """Say what the replicas of a session need, and node by node why one more does not fit.

    Args:
        world: What is wanted, stored and seen.
        session: The session; it need not be one of the world's.
        now: The time, in seconds since 1970.
    """
    mine = world.replicas.get(session.id, {})
    live = [r for r in mine.values() if not r.phase.ended]
    placed = len({r.index for r in live if r.phase is not ReplicaPhase.PENDING})
    unplaced = max(0, session.desired - placed)
    fleet = fleet_of(world, world.sessions, world.replicas)
    door = Gate(
        world.quotas,
        ((one, world.replicas.get(key, {}).values()) for key, one in world.sessions.items()),
    )
    before = _place_those_before(fleet, door, world, session, now)
    verdict = door.ask(session, mine.values(), fleet) if unplaced else Verdict()
    kind, needs = session.driver, verdict.waits or effective_needs(session)
    if verdict.gpu_type:
        needs = replace(needs, hardware_types=(verdict.gpu_type,))
    rooms = fleet.of_kind(kind)
    # Looked at before the session's own replicas are placed: what one more of them finds.
    verdicts = [judge(room, needs) for room in rooms]
    fitting = 0
    unplaceable = 0 if verdict.shortages else unplaced
    while fitting < unplaceable and fleet.place(kind, session.id, needs) is not None:
        fitting += 1
    message = inference_session_pb2.PlacementExplanation(
        needs=inference_session_pb2.PlacementNeeds(
            driver=kind,
            gpus=needs.gpus,
            hardware_types=needs.hardware_types,
            gpu_memory_bytes=needs.gpu_memory_bytes,
            cpus=needs.cpus,
            memory_bytes=needs.memory_bytes,
            spot=needs.spot,
        ),
        desired=session.desired,
        placed=placed,
        fitting=fitting,
        waiting_before=before,
        nodes=[
            inference_session_pb2.NodeVerdict(
                node=verdict.node, fits=not verdict.reasons, reasons=verdict.reasons
            )
            for verdict in sorted(verdicts, key=lambda v: v.node)
        ],
    )
    if verdict.shortages:
        message.reason = reason_number(Reason.QUOTA_LIMIT)
        message.quota.extend(
            inference_session_pb2.QuotaShortage(
                account=session.account,
                limit_name=one.name,
                needed=one.needed,
                used=one.used,
                kept=one.kept,
                limit=one.limit,
            )
            for one in verdict.shortages
        )
        message.summary = (
            f"{_replicas(unplaced)} of {session.desired} would wait. "
            f"{shortage_text(session.account, verdict.shortages)}"
        )
        return message
    held = gate(session.service, world.models)
    if held is not None and unplaced:
        message.reason = reason_number(held.reason)
        message.summary = (
            f"{_replicas(unplaced)} of {session.desired} without a place. Not room keeps them "
            f"from one: they wait {held.message}"
        )
        return message
    if fitting == unplaced:
        message.summary = f"Each replica needs {needs_text(needs)}. " + (
            f"All {placed} replicas have a place."
            if not unplaced
            else f"{_replicas(unplaced)} without a place would get one now."
        )
        return message
    rest = unplaced - fitting
    message.reason = reason_number(why_waiting(rooms, needs))
    message.summary = (
        f"{_replicas(rest)} of {session.desired} would wait. {waiting_text(kind, rooms, needs)}"
    )
    return message


def _place_those_before(
    fleet: Fleet, door: Gate, world: World, session: SessionRecord, now: float
) -> int:
    """Place what waits longer than a session; return how many of them have no room."""
    me = (session.created_at, session.id, -1)
    queue: list[tuple[SessionRecord, ReplicaRecord]] = sorted(
        (
            (world.sessions[key], replica)
            for key, of_session in world.replicas.items()
            for replica in of_session.values()
            if key != session.id
            and replica.phase is ReplicaPhase.PENDING
            and (replica.retry_at or 0.0) <= now
            and gate(world.sessions[key].service, world.models) is None
            and queue_key(world.sessions[key], replica) < me
        ),
        key=lambda entry: queue_key(*entry),
    )
    waiting = 0
    verdict, asked = Verdict(), ""
    for other, _ in queue:
        if other.id != asked:
            asked = other.id
            verdict = door.ask(other, world.replicas[other.id].values(), fleet)
        if verdict.shortages:
            waiting += 1
            continue
        needs = verdict.waits or effective_needs(other)
        if verdict.gpu_type:
            needs = replace(needs, hardware_types=(verdict.gpu_type,))
        if verdict.waits or fleet.place(other.driver, other.id, needs) is None:
            waiting += 1
            fleet.keep_for(other.driver, needs)
    return waiting


def _replicas(number: int) -> str:
    return "1 replica" if number == 1 else f"{number} replicas"
