"""Nodes and placements: what is asked, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from podbay._core.arguments import text
from podbay._core.operations import Operation, Service, StreamOperation
from podbay._core.resource_ops import converted, read
from podbay._core.wire_errors import reason_name
from podbay.schema import convert, requests
from podbay.schema.nodes import NodeDeclaration
from podbay.types import (
    NodeGpu,
    NodeInfo,
    NodesChange,
    NodeVerdict,
    Placement,
    PlacementNeeds,
    QuotaShortage,
)
from podbay.v1 import inference_session_pb2
from podbay.v1 import session_manager_service_pb2 as sessions

__all__ = [
    "cordon_node",
    "declare_node",
    "drain_node",
    "explain_placement",
    "explain_request",
    "get_node",
    "list_nodes",
    "uncordon_node",
    "undrain_node",
    "watch_nodes",
    "withdraw_node",
]


def list_nodes() -> Operation[list[NodeInfo]]:
    """Ask for the nodes."""
    return Operation(
        service=Service.SESSION_MANAGER,
        method="ListNodes",
        what="list the nodes",
        request=sessions.ListNodesRequest(),
        response=sessions.ListNodesResponse,
        decode=lambda answer: [_node(item) for item in answer.nodes],
    )


def get_node(name: str) -> Operation[NodeInfo]:
    """Ask for a node."""
    return Operation(
        service=Service.SESSION_MANAGER,
        method="GetNode",
        what="get the node",
        request=sessions.GetNodeRequest(name=text(name, "name")),
        response=sessions.GetNodeResponse,
        decode=lambda answer: _node(answer.node),
    )


def cordon_node(name: str) -> Operation[NodeInfo]:
    """Stop new replicas on a node."""
    return Operation(
        service=Service.SESSION_MANAGER,
        method="CordonNode",
        what="cordon the node",
        request=sessions.CordonNodeRequest(name=text(name, "name")),
        response=sessions.CordonNodeResponse,
        decode=lambda answer: _node(answer.node),
    )


def uncordon_node(name: str) -> Operation[NodeInfo]:
    """Allow new replicas on a node again."""
    return Operation(
        service=Service.SESSION_MANAGER,
        method="UncordonNode",
        what="uncordon the node",
        request=sessions.UncordonNodeRequest(name=text(name, "name")),
        response=sessions.UncordonNodeResponse,
        decode=lambda answer: _node(answer.node),
    )


def drain_node(name: str) -> Operation[NodeInfo]:
    """Move all replicas away from a node."""
    return Operation(
        service=Service.SESSION_MANAGER,
        method="DrainNode",
        what="drain the node",
        request=sessions.DrainNodeRequest(name=text(name, "name")),
        response=sessions.DrainNodeResponse,
        decode=lambda answer: _node(answer.node),
    )


def undrain_node(name: str) -> Operation[NodeInfo]:
    """End the draining of a node."""
    return Operation(
        service=Service.SESSION_MANAGER,
        method="UndrainNode",
        what="end the draining of the node",
        request=sessions.UndrainNodeRequest(name=text(name, "name")),
        response=sessions.UndrainNodeResponse,
        decode=lambda answer: _node(answer.node),
    )


def declare_node(node: NodeDeclaration | Mapping[str, Any]) -> Operation[NodeInfo]:
    """Add a node, or change what is declared of one."""
    given = read(NodeDeclaration, node, "The node")
    return Operation(
        service=Service.SESSION_MANAGER,
        method="DeclareNode",
        what="declare the node",
        request=sessions.DeclareNodeRequest(node=converted(convert.to_proto, given, "The node")),
        response=sessions.DeclareNodeResponse,
        decode=lambda answer: _node(answer.node),
    )


def withdraw_node(name: str, lost: bool) -> Operation[None]:
    """Remove a declared node."""
    return Operation(
        service=Service.SESSION_MANAGER,
        method="WithdrawNode",
        what="withdraw the node",
        request=sessions.WithdrawNodeRequest(name=text(name, "name"), lost=lost),
        response=sessions.WithdrawNodeResponse,
        decode=lambda _: None,
        safe=False,  # the second of two finds no node
    )


def watch_nodes() -> StreamOperation[NodesChange]:
    """Ask for all nodes, and for every change."""
    return StreamOperation(
        service=Service.SESSION_MANAGER,
        method="WatchNodes",
        what="watch the nodes",
        request=sessions.WatchNodesRequest(),
        response=sessions.WatchNodesResponse,
        decode=_change,
    )


def explain_placement(session_id: str) -> Operation[Placement]:
    """Ask where the replicas of a session go."""
    return _explain(sessions.ExplainPlacementRequest(id=text(session_id, "session")))


def explain_request(
    request: requests.InferenceSessionCreateRequest | Mapping[str, Any],
) -> Operation[Placement]:
    """Ask where the replicas of a session would go that is not created by this."""
    given = read(requests.InferenceSessionCreateRequest, request, "The inference session")
    message = converted(convert.to_proto, given, "The inference session")
    return _explain(sessions.ExplainPlacementRequest(inference_session=message))


def _explain(request: sessions.ExplainPlacementRequest) -> Operation[Placement]:
    return Operation(
        service=Service.SESSION_MANAGER,
        method="ExplainPlacement",
        what="explain the placement",
        request=request,
        response=sessions.ExplainPlacementResponse,
        decode=lambda answer: _placement(answer.placement),
    )


def _change(answer: sessions.WatchNodesResponse) -> list[NodesChange]:
    if not (answer.snapshot or answer.nodes or answer.removed):
        return []  # a sign of life
    nodes = tuple(_node(node) for node in answer.nodes)
    return [NodesChange(answer.snapshot, nodes, tuple(answer.removed))]


def _placement(placement: inference_session_pb2.PlacementExplanation) -> Placement:
    needs = placement.needs
    return Placement(
        needs=PlacementNeeds(
            driver=needs.driver,
            gpus=needs.gpus,
            hardware_types=tuple(needs.hardware_types),
            gpu_memory_bytes=needs.gpu_memory_bytes,
            cpus=needs.cpus,
            memory_bytes=needs.memory_bytes,
            spot=needs.spot,
        ),
        desired=placement.desired,
        placed=placement.placed,
        fitting=placement.fitting,
        waiting_before=placement.waiting_before,
        reason=reason_name(placement.reason) if placement.reason else None,
        summary=placement.summary,
        nodes=tuple(
            NodeVerdict(verdict.node, verdict.fits, tuple(verdict.reasons))
            for verdict in placement.nodes
        ),
        quota=tuple(
            QuotaShortage(
                each.account, each.limit_name, each.needed, each.used, each.kept, each.limit
            )
            for each in placement.quota
        ),
    )


def _node(node: inference_session_pb2.Node) -> NodeInfo:
    state = inference_session_pb2.NodeState.Name(node.state)
    return NodeInfo(
        name=node.name,
        driver=node.driver,
        state=state.removeprefix("NODE_STATE_").capitalize(),
        message=node.message,
        address=node.address,
        replicas=node.replicas,
        cpus=node.cpus,
        memory_bytes=node.memory_bytes,
        gpus=tuple(
            NodeGpu(
                id=gpu.id,
                hardware_type=gpu.hardware_type,
                memory_bytes=gpu.memory_bytes,
                replica_id=gpu.replica_id or None,
                session_id=gpu.session_id or None,
                set_aside=gpu.set_aside,
            )
            for gpu in node.gpus
        ),
        spot=node.spot,
        labels=dict(node.labels),
        engine=node.engine,
        differences=tuple(node.differences),
        free_cpus=node.free_cpus,
        free_memory_bytes=node.free_memory_bytes,
    )
