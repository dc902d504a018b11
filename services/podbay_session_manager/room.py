"""The room on one node: what is free, what fits, and what is kept. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from podbay_session_manager.declared_nodes import DeclaredGpu
from podbay_session_manager.plan_input import NodeRecord
from podbay_session_manager.records import Needs

__all__ = ["Fit", "FitKey", "MissingKey", "NodeRoom"]

FitKey = tuple[bool, bool, int, int, float, float, str]
"""How well a replica fits, the smallest best: see `NodeRoom.fit`."""

MissingKey = tuple[int, float, float, str]
"""How much is missing, the smallest first: GPUs, processors, memory, and the node's name."""

# Sums of processors in floating point are compared with a little slack.
_SLACK = 1e-9
# More than a session has replicas on a node.
_SHUNNED = 10_000


@dataclass(frozen=True, slots=True)
class Fit:
    """A way to put a replica on a node."""

    key: FitKey
    gpus: tuple[str, ...]


class NodeRoom:
    """What is free on a node, as placements take it.

    Args:
        node: The node.
        awaited: Whether its driver is about to answer, as far as one can tell: what is free is then
            what will be.
    """

    __slots__ = (
        "_positions",
        "awaited",
        "blocked",
        "free_cpus",
        "free_gpus",
        "free_memory",
        "kept_gpus",
        "node",
        "sessions",
        "unverified",
        "version",
    )

    def __init__(self, node: NodeRecord, *, awaited: bool = False) -> None:
        self.node = node
        self.awaited = awaited
        self.free_cpus = node.cpus or math.inf
        self.free_memory = float(node.memory_bytes) or math.inf
        self.free_gpus: dict[str, list[DeclaredGpu]] = {}
        """The free GPUs by type, those with the least memory first."""
        self.kept_gpus = 0
        """How many free GPUs are kept for replicas that have waited longer."""
        self.sessions: dict[str, int] = {}
        """How many replicas of each session are on the node."""
        self.unverified = False
        """Whether something runs there that no record speaks of: its GPUs are not known."""
        self.version = 0
        """Grows whenever there is less room."""
        self.blocked = _blocked(node, awaited=awaited)
        """Whether the node takes no replicas at all now."""
        self._positions = {gpu.id: n for n, gpu in enumerate(node.gpus)}
        for gpu in node.gpus:
            if gpu.id not in node.set_aside:
                self.free_gpus.setdefault(gpu.hardware_type, []).append(gpu)
        for gpus in self.free_gpus.values():
            gpus.sort(key=lambda gpu: (gpu.memory_bytes, self._positions[gpu.id]))

    def hold(self, session_id: str, needs: Needs, gpus: Iterable[str]) -> None:
        """Take what a replica holds.

        Args:
            session_id: Its session.
            needs: What it needs.
            gpus: The ids of the GPUs that are its alone.
        """
        self.sessions[session_id] = self.sessions.get(session_id, 0) + 1
        self._take(needs.cpus, needs.memory_bytes, frozenset(gpus))

    def shun(self, session_id: str) -> None:
        """Be the last choice of a session, as if it were crowded here; room is not taken."""
        self.sessions[session_id] = self.sessions.get(session_id, 0) + _SHUNNED

    def fit(self, needs: Needs) -> Fit | None:
        """Return the best way to put a replica here; None where there is none now.

        What is scarce is spared, in this order: nodes with GPUs by what needs none; nodes that
        stay by what may run on those that do not; large GPUs by what small ones will do for; and
        GPUs that stand together by taking those that leave the fewest behind. Of two nodes that
        are alike in this, the one with less memory and processors left is filled up first.
        """
        node = self.node
        if self.blocked or (node.spot and not needs.spot):
            return None
        cpus, memory = self.free_cpus - needs.cpus, self.free_memory - needs.memory_bytes
        if cpus < -_SLACK or memory < 0:
            return None
        chosen = self._choose(needs)
        if chosen is None:
            return None
        size, left, ids = chosen
        wasteful = not needs.gpus and bool(node.gpus)
        key = (wasteful, needs.spot and not node.spot, size, left, memory, cpus, node.name)
        return Fit(key, ids)

    def could_fit(self, needs: Needs) -> bool:
        """Say whether a replica would fit if nothing else were on the node."""
        node = self.node
        if self.blocked or (node.spot and not needs.spot):
            return False
        if (node.cpus and node.cpus + _SLACK < needs.cpus) or (
            node.memory_bytes and node.memory_bytes < needs.memory_bytes
        ):
            return False
        return not needs.gpus or any(
            sum(
                1
                for gpu in node.gpus
                if gpu.hardware_type == hardware_type
                and gpu.memory_bytes >= needs.gpu_memory_bytes
                and gpu.id not in node.set_aside
            )
            >= needs.gpus
            for hardware_type in needs.hardware_types
        )

    def missing(self, needs: Needs) -> MissingKey:
        """Return how far the node is from having room for a replica that could fit."""
        return (
            needs.gpus - len(self._nearest(needs)),
            max(0.0, needs.cpus - self.free_cpus),
            max(0.0, needs.memory_bytes - self.free_memory),
            self.node.name,
        )

    def keep(self, needs: Needs) -> None:
        """Keep what is free for a replica that waits for more to come free here."""
        gpus = frozenset(gpu.id for gpu in self._nearest(needs))
        self.kept_gpus += len(gpus)
        self._take(
            min(needs.cpus, max(0.0, self.free_cpus)),
            min(needs.memory_bytes, max(0.0, self.free_memory)),
            gpus,
        )

    def usable(self, needs: Needs, hardware_type: str) -> list[DeclaredGpu]:
        """Return the free GPUs of a type that have memory enough, the smallest first."""
        return [
            gpu
            for gpu in self.free_gpus.get(hardware_type, ())
            if gpu.memory_bytes >= needs.gpu_memory_bytes
        ]

    def _choose(self, needs: Needs) -> tuple[int, int, tuple[str, ...]] | None:
        if not needs.gpus:
            return 0, 0, ()
        if self.unverified:
            return None
        best: tuple[int, int, tuple[str, ...]] | None = None
        for hardware_type in needs.hardware_types:
            usable = self.usable(needs, hardware_type)
            if len(usable) < needs.gpus:
                continue
            chosen = sorted(usable[: needs.gpus], key=lambda gpu: self._positions[gpu.id])
            found = (
                sum(gpu.memory_bytes for gpu in chosen),
                len(self.free_gpus[hardware_type]) - needs.gpus,
                tuple(gpu.id for gpu in chosen),
            )
            if best is None or found[:2] < best[:2]:
                best = found
        return best

    def _nearest(self, needs: Needs) -> list[DeclaredGpu]:
        """Return the free GPUs, at most as many as needed, of the type that has the most."""
        if not needs.gpus or self.unverified:
            return []
        usable = [self.usable(needs, kind)[: needs.gpus] for kind in needs.hardware_types]
        return max(usable, key=len, default=[])

    def _take(self, cpus: float, memory: float, gpus: frozenset[str]) -> None:
        self.free_cpus -= cpus
        self.free_memory -= memory
        if gpus:
            for hardware_type, free in self.free_gpus.items():
                self.free_gpus[hardware_type] = [gpu for gpu in free if gpu.id not in gpus]
        self.version += 1


def _blocked(node: NodeRecord, *, awaited: bool) -> bool:
    away = bool(node.unreachable) and not awaited
    return node.cordoned or node.draining or away or bool(node.twin)
