"""Which node, and which of its GPUs, a waiting replica is given. Pure.

Replicas are placed in the order in which they wait. One that does not fit keeps what is free on
the node that is nearest to having room for it, so that those behind it cannot take that away for
ever: what a node has free for it only grows, until it is enough.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from podbay_session_manager.plan_input import NodeRecord
from podbay_session_manager.records import Needs
from podbay_session_manager.room import FitKey, NodeRoom

__all__ = ["Fleet", "Placement", "gpu_type_of"]

# Only the first ones that wait have room kept for them. Those behind them come to the front as
# these are placed; and a pass stays short however many wait.
_KEPT_FOR = 32


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a replica goes."""

    node: NodeRecord
    gpus: tuple[str, ...]
    awaited: bool = False
    """Whether the node has not answered yet: nothing may be started there before it has."""


def gpu_type_of(node: NodeRecord, gpus: Iterable[str]) -> str:
    """Return the type of a replica's GPUs on a node, which is the same for all; "" for none."""
    mine = frozenset(gpus)
    return next((gpu.hardware_type for gpu in node.gpus if gpu.id in mine), "")


class Fleet:
    """The room on all nodes, as placements take it.

    Args:
        nodes: The nodes.
        unverified: The drivers that hold something that no record speaks of.
        awaited: The drivers that are silent, and that one waits for.
    """

    def __init__(
        self,
        nodes: Iterable[NodeRecord],
        unverified: Collection[str] = (),
        awaited: Collection[str] = (),
    ) -> None:
        self.rooms = [NodeRoom(node, awaited=node.driver in awaited) for node in nodes]
        self._awaits = any(room.awaited for room in self.rooms)
        self._by_place = {(room.node.driver, room.node.name): room for room in self.rooms}
        self._by_kind: dict[str, list[NodeRoom]] = {}
        self._shortlists: dict[tuple[str, bool, Needs], _Shortlist] = {}
        self._kept_for = 0
        for room in self.rooms:
            room.unverified = room.node.driver in unverified
            self._by_kind.setdefault(room.node.runs, []).append(room)

    def hold(
        self, driver: str, node: str, session_id: str, needs: Needs, gpus: Iterable[str]
    ) -> None:
        """Take what a placed replica holds; before the first `place`.

        A node that is no longer there has no room to take it from.
        """
        room = self._by_place.get((driver, node))
        if room is not None:
            room.hold(session_id, needs, gpus)

    def shun(self, driver: str, node: str, session_id: str) -> None:
        """Make a node the last choice of a session that has failed there; before `place`."""
        room = self._by_place.get((driver, node))
        if room is not None:
            room.shun(session_id)

    def of_kind(self, kind: str) -> list[NodeRoom]:
        """Return the rooms of the nodes that a kind of driver reaches."""
        return self._by_kind.get(kind, [])

    def place(self, kind: str, session_id: str, needs: Needs) -> Placement | None:
        """Give a replica the best room that there is, and take it; None where none fits now.

        A node that is awaited is given only where no other one would do as well: where all others
        are full, or have replicas of the session already.

        Args:
            kind: The kind of driver that shall run it.
            session_id: Its session: replicas of one keep away from each other.
            needs: What it needs.
        """
        room = self._shortlist(kind, needs).best(session_id)
        if self._awaits and (room is None or session_id in room.sessions):
            other = self._shortlist(kind, needs, awaited=True).best(session_id)
            if other is not None and (room is None or session_id not in other.sessions):
                room = other
        fit = None if room is None else room.fit(needs)
        if room is None or fit is None:
            return None
        room.hold(session_id, needs, fit.gpus)
        self._changed(room)
        return Placement(room.node, fit.gpus, room.awaited)

    def peek(self, kind: str, session_id: str, needs: Needs) -> Placement | None:
        """Return the best room that there is for a replica, as `place`, and take nothing."""
        room = self._shortlist(kind, needs).best(session_id)
        fit = None if room is None else room.fit(needs)
        return None if room is None or fit is None else Placement(room.node, fit.gpus)

    def keep_for(self, kind: str, needs: Needs) -> NodeRoom | None:
        """Keep room for a replica that did not fit.

        Returns:
            The room where it waits for more; None where none would ever do, or where as many as
            can be are kept room for already.
        """
        if self._kept_for >= _KEPT_FOR:
            return None
        rooms = [room for room in self.of_kind(kind) if room.could_fit(needs)]
        if not rooms:
            return None
        self._kept_for += 1
        room = min(rooms, key=lambda one: one.missing(needs))
        room.keep(needs)
        self._changed(room)
        return room

    def _shortlist(self, kind: str, needs: Needs, *, awaited: bool = False) -> _Shortlist:
        key = (kind, awaited, needs)
        found = self._shortlists.get(key)
        if found is None:
            rooms = (room for room in self.of_kind(kind) if room.awaited == awaited)
            found = self._shortlists[key] = _Shortlist(rooms, needs)
        return found

    def _changed(self, room: NodeRoom) -> None:
        for (kind, awaited, _), shortlist in self._shortlists.items():
            if kind == room.node.runs and awaited == room.awaited:
                shortlist.offer(room)


class _Shortlist:
    """The nodes that have room for the same needs, the best first.

    Many replicas need the same: one look at all nodes serves them all, and a placement changes
    one node.
    """

    def __init__(self, rooms: Iterable[NodeRoom], needs: Needs) -> None:
        self._needs = needs
        self._heap: list[tuple[FitKey, int, NodeRoom]] = []
        for room in rooms:
            fit = room.fit(needs)
            if fit is not None:
                self._heap.append((fit.key, room.version, room))
        heapq.heapify(self._heap)

    def offer(self, room: NodeRoom) -> None:
        """Take note that a node has less room than before."""
        fit = room.fit(self._needs)
        if fit is not None:
            heapq.heappush(self._heap, (fit.key, room.version, room))

    def best(self, session_id: str) -> NodeRoom | None:
        """Return the best node, one without replicas of the session before all others."""
        crowded: list[tuple[FitKey, int, NodeRoom]] = []
        found: NodeRoom | None = None
        while self._heap:
            entry = self._heap[0]
            _, version, room = entry
            if version != room.version:
                heapq.heappop(self._heap)
            elif session_id in room.sessions:
                crowded.append(heapq.heappop(self._heap))
            else:
                found = room
                break
        for entry in crowded:
            heapq.heappush(self._heap, entry)
        if found is None and crowded:
            found = min(crowded, key=lambda entry: (entry[2].sessions[session_id], entry[0]))[2]
        return found
