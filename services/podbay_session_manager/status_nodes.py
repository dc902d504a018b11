"""What people are told of nodes. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from podbay.v1 import inference_session_pb2
from podbay_session_manager.plan_input import NodeRecord, World
from podbay_session_manager.plan_placing import fleet_of
from podbay_session_manager.records import ReplicaRecord
from podbay_session_manager.room import NodeRoom

__all__ = ["node_messages"]


def node_messages(world: World) -> list[inference_session_pb2.Node]:
    """Return the nodes by name; one that several drivers reach is one node."""
    by_name: dict[str, list[NodeRoom]] = {}
    for room in fleet_of(world, world.sessions, world.replicas).rooms:
        by_name.setdefault(room.node.name, []).append(room)
    holders: dict[str, list[ReplicaRecord]] = {}
    for of_session in world.replicas.values():
        for replica in of_session.values():
            if replica.holds_node:
                holders.setdefault(replica.node, []).append(replica)
    return [_node_message(rooms, holders.get(name, [])) for name, rooms in sorted(by_name.items())]


def _node_message(
    rooms: Sequence[NodeRoom], holders: Sequence[ReplicaRecord]
) -> inference_session_pb2.Node:
    nodes = [room.node for room in rooms]
    node = nodes[0]
    living = sum(1 for replica in holders if not replica.phase.ended)
    state, message = _state(nodes, len(holders), living)
    owners = {gpu: replica for replica in holders for gpu in replica.gpus}
    cpus = min((room.free_cpus for room in rooms), default=0.0)
    memory = min((room.free_memory for room in rooms), default=0.0)
    return inference_session_pb2.Node(
        name=node.name,
        driver=",".join(each.driver for each in nodes),
        state=state,
        message=message,
        address=node.address,
        replicas=living,
        cpus=math.ceil(node.cpus),
        memory_bytes=node.memory_bytes,
        gpus=[
            inference_session_pb2.NodeGpu(
                id=gpu.id,
                hardware_type=gpu.hardware_type,
                memory_bytes=gpu.memory_bytes,
                replica_id=owners[gpu.id].id if gpu.id in owners else "",
                session_id=owners[gpu.id].session_id if gpu.id in owners else "",
                set_aside=node.set_aside.get(gpu.id, ""),
            )
            for gpu in node.gpus
        ],
        spot=node.spot,
        labels=node.labels,
        engine=node.declared.engine if node.declared is not None else "",
        differences=node.differences,
        free_cpus=0.0 if math.isinf(cpus) else max(0.0, cpus),
        free_memory_bytes=0 if math.isinf(memory) else max(0, int(memory)),
    )


def _state(
    nodes: Sequence[NodeRecord], held: int, living: int
) -> tuple[inference_session_pb2.NodeState.ValueType, str]:
    node = nodes[0]
    unreachable = [f"{each.driver}: {each.unreachable}" for each in nodes if each.unreachable]
    if unreachable:
        have = "1 replica has" if held == 1 else f"{held} replicas have"
        kept = f" {have} a place on it; what it holds is not given out." if held else ""
        return (
            inference_session_pb2.NODE_STATE_UNREACHABLE,
            f"It cannot be reached ({'; '.join(unreachable)}).{kept}",
        )
    if node.draining:
        some = "1 replica is" if living == 1 else f"{living} replicas are"
        left = f"{some} left" if living else "no replica is left"
        return (
            inference_session_pb2.NODE_STATE_DRAINING,
            f"It is emptied, and {left}. Call it off: podbay node undrain {node.name}",
        )
    if node.cordoned:
        return (
            inference_session_pb2.NODE_STATE_CORDONED,
            f"It takes no new replicas. Allow them again: podbay node uncordon {node.name}",
        )
    if node.twin:
        return (
            inference_session_pb2.NODE_STATE_CORDONED,
            (
                f"It is the same container engine as node {node.twin}, and takes no new replicas. "
                f"Keep one of them: podbay node drain {node.name}, then podbay node withdraw "
                f"{node.name}"
            ),
        )
    return inference_session_pb2.NODE_STATE_READY, ""
