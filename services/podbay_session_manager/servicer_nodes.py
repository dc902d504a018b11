"""The RPCs on nodes."""

# ruff: noqa: ARG002 - every method of a servicer is given the request and its context.

from __future__ import annotations

from podbay.v1 import inference_session_pb2
from podbay.v1 import session_manager_service_pb2 as pb
from podbay_kit.auth import current_principal, require
from podbay_session_manager.servicer_base import Context, ServicerBase
from podbay_session_manager.status import node_messages

__all__ = ["NodeServicer"]

# Nodes belong to the installation: no account's grant reaches them, only one for all accounts.
_NO_ACCOUNT = ""


class NodeServicer(ServicerBase):
    """The part of the SessionManagerService that serves nodes."""

    async def ListNodes(
        self, request: pb.ListNodesRequest, context: Context
    ) -> pb.ListNodesResponse:
        """List the nodes."""
        require(current_principal(), "nodes", "query", account=_NO_ACCOUNT)
        return pb.ListNodesResponse(nodes=self._nodes())

    async def GetNode(self, request: pb.GetNodeRequest, context: Context) -> pb.GetNodeResponse:
        """Return a node."""
        require(current_principal(), "nodes", "get", account=_NO_ACCOUNT, entity=request.name)
        return pb.GetNodeResponse(node=self._node(request.name))

    async def CordonNode(
        self, request: pb.CordonNodeRequest, context: Context
    ) -> pb.CordonNodeResponse:
        """Stop new replicas on a node."""
        return pb.CordonNodeResponse(node=await self._set_cordoned(request.name, cordoned=True))

    async def UncordonNode(
        self, request: pb.UncordonNodeRequest, context: Context
    ) -> pb.UncordonNodeResponse:
        """Allow new replicas on a node again."""
        return pb.UncordonNodeResponse(node=await self._set_cordoned(request.name, cordoned=False))

    async def _set_cordoned(self, name: str, *, cordoned: bool) -> inference_session_pb2.Node:
        require(current_principal(), "nodes", "edit", account=_NO_ACCOUNT, entity=name)
        await self._parts.nodes.set_cordoned(name, cordoned)
        self._parts.reconciler.hint()
        return self._node(name)

    def _node(self, name: str) -> inference_session_pb2.Node:
        self._parts.nodes.check(name)
        return next(node for node in self._nodes() if node.name == name)

    def _nodes(self) -> list[inference_session_pb2.Node]:
        replicas = self._parts.state.replicas.values()
        return node_messages(
            self._parts.nodes.nodes, [r for of_one in replicas for r in of_one.values()]
        )
