"""The plan: what should be, against what is stored, against what is seen. Pure.

`plan_pass` looks at every session that has not ended and says which records change and what the
drivers are told. Nothing is told before the change is stored, and everything may be told again:
a session manager that dies anywhere in between goes on from what is stored and what is seen.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

from podbay_session_manager.plan_input import Plan, RemoveReplica, Scene, StopReplica, World
from podbay_session_manager.plan_placing import abandoned, move_from_draining, place_waiting
from podbay_session_manager.plan_session import SessionPass
from podbay_session_manager.policy import Policy

__all__ = ["plan_pass"]

_LEFTOVER_GRACE = 10.0


def _new_id() -> str:
    return uuid.uuid4().hex


def plan_pass(
    world: World, now: float, policy: Policy, *, new_id: Callable[[], str] = _new_id
) -> Plan:
    """Say what to store and what to do.

    Args:
        world: What is wanted, stored and seen.
        now: The time, in seconds since 1970.
        policy: How patient to be.
        new_id: Makes the ids of new replicas.
    """
    plan = Plan()
    scene = Scene.of(world, now, policy)
    passes = [SessionPass(session, scene, plan, new_id) for session in world.sessions.values()]
    for node in world.nodes:
        if node.unreachable_since is not None and node.driver not in scene.lost:
            plan.wake(node.unreachable_since + policy.node_grace)
    for one in passes:
        one.advance()
    if not world.halting:
        move_from_draining(passes, scene)
        place_waiting(passes, scene)
    for one in passes:
        one.finish()
    # Stop and remove what a driver holds and no record speaks of.
    for driver, seen in abandoned(world):
        if seen.running:
            plan.actions.append(StopReplica(seen.replica_id, driver, _LEFTOVER_GRACE))
        else:
            plan.actions.append(RemoveReplica(seen.replica_id, driver))
    return plan
