"""What a replica needs, and node by node why it does not fit, for people. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from podbay_session_manager.records import Needs, Reason
from podbay_session_manager.room import NodeRoom

__all__ = [
    "NodeVerdict",
    "judge",
    "needs_text",
    "no_nodes_text",
    "size_text",
    "waiting_text",
    "why_waiting",
]

_UNITS: Final = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_SHOWN_NODES: Final = 6
_MOST: Final = 1500


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """Whether a replica fits on a node, and why not."""

    node: str
    reasons: tuple[str, ...]
    """Why it does not fit; empty where it does."""


def size_text(size: float) -> str:
    """Return a number of bytes for people, as "80 GiB"."""
    for unit, name in _UNITS:
        if size >= unit:
            return f"{_number(size / unit)} {name}"
    return f"{_number(size)} B"


def needs_text(needs: Needs) -> str:
    """Return what a replica needs, as "2 GPUs nvidia.com/gpu-t4 and 16 GiB of memory"."""
    parts: list[str] = []
    if needs.gpus:
        each = " each" if needs.gpus > 1 else ""
        memory = (
            f" with {size_text(needs.gpu_memory_bytes)}{each}" if needs.gpu_memory_bytes else ""
        )
        parts.append(f"{_count(needs.gpus, 'GPU')} {' or '.join(needs.hardware_types)}{memory}")
    if needs.cpus:
        parts.append(_count(needs.cpus, "CPU"))
    if needs.memory_bytes:
        parts.append(f"{size_text(needs.memory_bytes)} of memory")
    if not needs.spot:
        parts.append("a node that is not spot")
    if not parts:
        return "nothing in particular"
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def judge(room: NodeRoom, needs: Needs) -> NodeVerdict:
    """Say whether a replica fits on a node now, and if not, everything that is in the way."""
    node = room.node
    reasons: list[str] = []
    if node.unreachable:
        reasons.append(f"cannot be reached: {node.unreachable}")
    if node.draining:
        reasons.append(f"is draining (podbay node undrain {node.name})")
    elif node.cordoned:
        reasons.append(f"is cordoned (podbay node uncordon {node.name})")
    if node.twin:
        reasons.append(f"is the same container engine as node {node.twin}")
    if node.spot and not needs.spot:
        reasons.append("is a spot node")
    reasons.extend(_gpus(room, needs))
    if room.free_cpus + 1e-9 < needs.cpus:
        reasons.append(
            f"{_number(max(0.0, room.free_cpus))} of {_count(node.cpus, 'CPU')} free, "
            f"{_number(needs.cpus)} needed"
        )
    if room.free_memory < needs.memory_bytes:
        reasons.append(
            f"{size_text(max(0.0, room.free_memory))} of {size_text(node.memory_bytes)} memory "
            f"free, {size_text(needs.memory_bytes)} needed"
        )
    return NodeVerdict(node.name, tuple(reasons))


def why_waiting(rooms: Sequence[NodeRoom], needs: Needs) -> Reason:
    """Return the reason of a replica that waits for room.

    Args:
        rooms: The rooms of the nodes of this kind.
        needs: What it needs.
    """
    if all(room.blocked for room in rooms):
        return Reason.NO_NODE_AVAILABLE
    types = {gpu.hardware_type for room in rooms for gpu in room.node.gpus}
    if needs.gpus and types.isdisjoint(needs.hardware_types):
        return Reason.NO_SUCH_GPU_TYPE
    return Reason.INSUFFICIENT_CAPACITY


def waiting_text(
    kind: str, rooms: Sequence[NodeRoom], needs: Needs, *, bounded: bool = True
) -> str:
    """Say what a replica needs and, node by node, why it does not fit.

    Args:
        kind: The kind of driver that shall run it.
        rooms: The rooms of the nodes of this kind.
        needs: What it needs.
        bounded: Whether only some nodes are named, those that come nearest first.
    """
    if not rooms:
        return f"No node takes it: {no_nodes_text(kind)}"
    nearest = _nearest_first(rooms, needs)
    shown = [judge(room, needs) for room in (nearest[:_SHOWN_NODES] if bounded else nearest)]
    lines = "; ".join(f"{v.node}: {', '.join(v.reasons) or 'it fits'}" for v in shown)
    more = len(nearest) - len(shown)
    rest = f"; and {more} more nodes (podbay session explain)" if more else ""
    never = (
        ""
        if all(room.blocked for room in rooms) or any(room.could_fit(needs) for room in rooms)
        else " No node that takes replicas now could hold it even if it were empty."
    )
    head = f"It needs {needs_text(needs)}, and no node has room"
    if needs == Needs():
        head, never = "No node takes it", ""
    text = f"{head}: {lines}{rest}.{never}"
    return text if not bounded or len(text) <= _MOST else f"{text[: _MOST - 1]}…"


def no_nodes_text(kind: str) -> str:
    """Say that a kind of driver reaches no node, and what to do."""
    if kind == "docker":
        return "no node is declared. Declare one: podbay node declare FILE."
    return f"the driver {kind!r} is not on. Start the session manager with --drivers {kind}."


def _nearest_first(rooms: Iterable[NodeRoom], needs: Needs) -> list[NodeRoom]:
    return sorted(rooms, key=lambda room: (not room.could_fit(needs), room.missing(needs)))


def _gpus(room: NodeRoom, needs: Needs) -> list[str]:
    """Say why the GPUs of a node do not do."""
    if not needs.gpus:
        return []
    node = room.node
    mine = [gpu for gpu in node.gpus if gpu.hardware_type in needs.hardware_types]
    if not mine:
        has = sorted({gpu.hardware_type for gpu in node.gpus})
        return [f"has no such GPU ({'it has ' + ', '.join(has) if has else 'it has none'})"]
    large = [gpu for gpu in mine if gpu.memory_bytes >= needs.gpu_memory_bytes]
    if not large:
        most = max(gpu.memory_bytes for gpu in mine)
        told = f"the largest has {size_text(most)}" if most else "its memory is not declared"
        return [f"has no GPU with {size_text(needs.gpu_memory_bytes)} ({told})"]
    if room.unverified:
        return ["something that was started earlier still runs there, and may use its GPUs"]
    free = max(len(room.usable(needs, kind)) for kind in needs.hardware_types)
    if free >= needs.gpus:
        return []
    aside = [gpu.id for gpu in large if gpu.id in node.set_aside]
    notes = []
    if room.kept_gpus:
        notes.append(f"{room.kept_gpus} kept for replicas that wait longer")
    if aside:
        notes.append(f"set aside: {', '.join(f'{i} ({node.set_aside[i]})' for i in aside)}")
    note = f" ({'; '.join(notes)})" if notes else ""
    return [f"{free} of {_count(len(large), 'such GPU')} free, {needs.gpus} needed{note}"]


def _count(number: float, what: str) -> str:
    return f"{_number(number)} {what}{'' if number == 1 else 's'}"


def _number(value: float) -> str:
    if math.isinf(value):
        return "unlimited"
    return f"{value:.2f}".rstrip("0").rstrip(".")
