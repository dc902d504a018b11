"""What is still waited for where all replicas shall end together with the session manager. Pure."""

from __future__ import annotations

from collections.abc import Collection

from podbay_session_manager.plan_input import World

__all__ = ["awaited_drivers"]


def awaited_drivers(
    world: World,
    *,
    starting: Collection[str],
    unheard: Collection[str],
    given_up: Collection[str],
) -> frozenset[str]:
    """Return the names of the drivers that hold replicas, or may.

    Args:
        world: What is stored and seen.
        starting: The drivers that have not finished every start that they were told of.
        unheard: The drivers that have not told yet what they hold, as where one still looks for
            what an earlier session manager left. That is nothing like holding nothing.
        given_up: The drivers that cannot be reached, and are waited for no longer.
    """
    recorded = {
        replica.driver
        for replicas in world.replicas.values()
        for replica in replicas.values()
        if not (replica.phase.ended and replica.removed)
    }
    holding = {name for name, listed in world.observed.items() if listed}
    known = recorded.intersection(world.observed)
    return frozenset(holding.union(known, unheard, starting).difference(given_up))
