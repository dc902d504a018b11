"""What a node is, out of what was declared and what is seen; and what may change of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from podbay.schema.nodes import NodeDeclaration
from podbay.schema.platform import quantity_to_int
from podbay.v1 import errors_pb2
from podbay_kit.errors import ServiceError, invalid
from podbay_session_manager.declared_nodes import DeclaredGpu, DeclaredNode, EngineTls
from podbay_session_manager.drivers.contract import NodeFacts
from podbay_session_manager.plan_input import NodeRecord
from podbay_session_manager.records import ReplicaRecord

__all__ = [
    "check_address",
    "check_change",
    "check_withdrawal",
    "declared_node",
    "mark_twins",
    "node_record",
    "with_silence",
]

_SILENT = "it has not answered yet"
_GPU_FAILED = "its driver's probe could not use it"


class _Driver(Protocol):
    name: str
    kind: str


class _Stored(Protocol):
    @property
    def cordoned(self) -> bool: ...
    @property
    def draining(self) -> bool: ...
    @property
    def declared(self) -> DeclaredNode | None: ...
    @property
    def name(self) -> str: ...


def declared_node(declaration: NodeDeclaration) -> DeclaredNode:
    """Return a declaration of the JSON interface as the session manager keeps it."""
    tls = declaration.tls
    return DeclaredNode(
        name=declaration.name,
        engine=declaration.engine,
        tls=None if tls is None else EngineTls(tls.ca, tls.cert, tls.key),
        address=declaration.address or "",
        gpus=tuple(
            DeclaredGpu(gpu.id, gpu.hardware_type, quantity_to_int(gpu.memory) if gpu.memory else 0)
            for gpu in declaration.gpus
        ),
        cpus=declaration.cpu_count,
        memory_bytes=declaration.memory_bytes,
        spot=declaration.spot,
        labels=dict(declaration.labels),
    )


def node_record(driver: _Driver, node: _Stored, facts: NodeFacts | None) -> NodeRecord:
    """Return a node as the planner sees it: what was declared wins over what is seen.

    Args:
        driver: The driver that reaches it.
        node: What was declared and decided.
        facts: What the driver tells of it; None where it has not told yet.
    """
    declared = node.declared
    seen = facts or NodeFacts(node.name, "", 0, 0)
    return NodeRecord(
        name=node.name,
        driver=driver.name,
        kind=driver.kind,
        cordoned=node.cordoned,
        draining=node.draining,
        address=(declared.address if declared else "") or seen.address,
        cpus=float((declared.cpus if declared else 0) or seen.cpus),
        memory_bytes=(declared.memory_bytes if declared else 0) or seen.memory_bytes,
        gpus=declared.gpus if declared else (),
        set_aside=dict.fromkeys(seen.failed_gpus, _GPU_FAILED),
        spot=declared.spot if declared else False,
        labels=declared.labels if declared else {},
        differences=seen.warnings,
        declared=declared,
    )


def mark_twins(records: Sequence[NodeRecord], engines: Mapping[str, str]) -> list[NodeRecord]:
    """Return nodes of which each container engine takes new replicas by one name only.

    It is the first that people let take some.

    Args:
        records: The nodes, in their order.
        engines: What each engine says of itself alone, by driver, as far as that is known.
    """
    first: dict[str, NodeRecord] = {}
    keys = {
        record.driver: [
            key
            for key in (
                record.declared.engine if record.declared is not None else "",
                engines.get(record.driver, ""),
            )
            if key
        ]
        for record in records
    }
    for record in sorted(records, key=lambda one: one.cordoned or one.draining):
        for key in keys[record.driver]:
            first.setdefault(key, record)
    marked: list[NodeRecord] = []
    for record in records:
        others = [first[key] for key in keys[record.driver] if first[key].name != record.name]
        marked.append(replace(record, twin=others[0].name) if others else record)
    return marked


def with_silence(
    records: Iterable[NodeRecord],
    observed: Mapping[str, object | None],
    silent: Mapping[str, float],
    now: float,
) -> tuple[NodeRecord, ...]:
    """Return nodes of which those are out of reach whose drivers have not told what they hold.

    What runs on a node must be seen before anything is placed there.

    Args:
        records: The nodes.
        observed: What each driver holds; None where it did not tell.
        silent: For how many seconds drivers have owed an answer.
        now: The time, in seconds since 1970.
    """
    return tuple(
        record
        if record.unreachable or observed.get(record.driver) is not None
        else replace(
            record,
            unreachable=_SILENT,
            silent_since=now - silent[record.driver] if record.driver in silent else None,
        )
        for record in records
    )


def check_address(declared: DeclaredNode, others: Iterable[DeclaredNode]) -> None:
    """Let a node pass whose engine is no other node's.

    Raises:
        ServiceError: INVALID_REQUEST.
    """
    for other in others:
        if other.name != declared.name and other.engine == declared.engine:
            raise invalid(
                "node.engine",
                f"is that of node {other.name!r}, and an engine is one node: what it has would be "
                f"given out twice. Change that node by its name, or withdraw it first (podbay node "
                f"withdraw {other.name})",
            )


def check_change(
    before: DeclaredNode | None,
    after: DeclaredNode,
    holders: Sequence[ReplicaRecord],
    *,
    local: bool,
) -> None:
    """Let a declaration pass that takes nothing away from replicas.

    Args:
        before: What was declared before; None where nothing was.
        after: What is declared now.
        holders: The replicas that have a place on the node.
        local: Whether a driver of this machine brings a node of this name.

    Raises:
        ServiceError: NODE_NOT_DECLARED or NODE_IN_USE.
    """
    if local:
        raise ServiceError(
            errors_pb2.ERROR_REASON_NODE_NOT_DECLARED,
            f"A driver of this machine brings a node {after.name!r}. Declare yours by another "
            "name.",
        )
    if before is None or not holders:
        return
    if before.engine != after.engine:
        raise _in_use(
            after.name,
            holders,
            "its engine cannot change: what runs at the old one could no longer be seen",
        )
    there = {gpu.id for gpu in after.gpus}
    missing = sorted({gpu for replica in holders for gpu in replica.gpus} - there)
    if missing:
        raise _in_use(after.name, holders, f"they have GPUs that it leaves out ({missing[0]})")


def check_withdrawal(
    name: str, declared: bool, holders: Sequence[ReplicaRecord], *, lost: bool
) -> None:
    """Let a node go that was declared and that nothing is on.

    Args:
        name: The node.
        declared: Whether it was declared.
        holders: The replicas that have a place on it.
        lost: Whether it is known that they are gone with the machine.

    Raises:
        ServiceError: NODE_NOT_DECLARED or NODE_IN_USE.
    """
    if not declared:
        raise ServiceError(
            errors_pb2.ERROR_REASON_NODE_NOT_DECLARED,
            f"Node {name!r} was not declared: a driver of this machine brings it. Leave that out "
            "of --drivers.",
        )
    if holders and not lost:
        raise _in_use(
            name,
            holders,
            f"empty it first (podbay node drain {name}), or say that the machine is gone for good "
            f"(podbay node withdraw {name} --lost)",
        )


def _in_use(name: str, holders: Sequence[ReplicaRecord], why: str) -> ServiceError:
    count = len(holders)
    has = "1 replica has" if count == 1 else f"{count} replicas have"
    return ServiceError(
        errors_pb2.ERROR_REASON_NODE_IN_USE,
        f"{has} a place on node {name!r}; {why}.",
        metadata={"node": name, "replicas": str(count)},
    )
