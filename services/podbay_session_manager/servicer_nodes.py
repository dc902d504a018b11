"""The RPCs on nodes."""

# ruff: noqa: ARG002 - every method of a servicer is given the request and its context.

from __future__ import annotations

import asyncio
from typing import Final

from podbay.schema import convert
from podbay.v1 import inference_session_pb2
from podbay.v1 import session_manager_service_pb2 as pb
from podbay_kit.access import current_access
from podbay_kit.resource_messages import read_valid
from podbay_session_manager.commands import lose_for_good
from podbay_session_manager.node_rules import declared_node
from podbay_session_manager.servicer_base import Context, ServicerBase, stopping_error
from podbay_session_manager.status_nodes import node_messages

__all__ = ["NodeServicer"]

_ALIVE_SECONDS: Final = 5.0
# Changes that come together are told together.
_PAUSE_SECONDS: Final = 0.1


class NodeServicer(ServicerBase):
    """The part of the SessionManagerService that serves nodes."""

    async def ListNodes(
        self, request: pb.ListNodesRequest, context: Context
    ) -> pb.ListNodesResponse:
        """List the nodes."""
        current_access().permit_installation()
        return pb.ListNodesResponse(nodes=self._nodes())

    async def GetNode(self, request: pb.GetNodeRequest, context: Context) -> pb.GetNodeResponse:
        """Return a node."""
        current_access().permit_installation(request.name)
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

    async def DrainNode(
        self, request: pb.DrainNodeRequest, context: Context
    ) -> pb.DrainNodeResponse:
        """Empty a node."""
        return pb.DrainNodeResponse(node=await self._set_draining(request.name, draining=True))

    async def UndrainNode(
        self, request: pb.UndrainNodeRequest, context: Context
    ) -> pb.UndrainNodeResponse:
        """End the draining of a node."""
        return pb.UndrainNodeResponse(node=await self._set_draining(request.name, draining=False))

    async def DeclareNode(
        self, request: pb.DeclareNodeRequest, context: Context
    ) -> pb.DeclareNodeResponse:
        """Add a node, or change what is declared of one."""
        name = request.node.name
        current_access().permit_installation(name)
        declared = declared_node(read_valid(convert.from_proto, request.node, "node"))
        state = self._parts.state
        async with state.deciding:
            holders = state.holders().get(declared.name, ())
            await self._parts.nodes.declare(declared, "api", holders)
        # What it has is asked at once, so that the answer tells.
        await self._parts.nodes.refresh()
        self._parts.reconciler.hint()
        return pb.DeclareNodeResponse(node=self._node(declared.name))

    async def WithdrawNode(
        self, request: pb.WithdrawNodeRequest, context: Context
    ) -> pb.WithdrawNodeResponse:
        """Remove a declared node."""
        name = request.name
        current_access().permit_installation(name)
        state = self._parts.state
        async with state.deciding:
            holders = state.holders().get(name, [])
            self._parts.nodes.check_withdrawal(name, holders, lost=request.lost)
            if holders:
                now = self._parts.clock.now().timestamp()
                await state.commit(replicas=[lose_for_good(replica, now) for replica in holders])
            await self._parts.nodes.withdraw(name)
        self._parts.reconciler.hint()
        return pb.WithdrawNodeResponse()

    async def WatchNodes(self, request: pb.WatchNodesRequest, context: Context) -> None:
        """Send all nodes, and then those that change."""
        current_access().permit_installation()
        passed = self._parts.reconciler.passed
        sent = {node.name: node for node in self._nodes()}
        await context.write(pb.WatchNodesResponse(snapshot=True, nodes=sent.values()))
        loop = asyncio.get_running_loop()
        told_at = loop.time()
        while True:
            await self._next_pass(passed)
            passed = self._parts.reconciler.passed
            now = {node.name: node for node in self._nodes()}
            changed = [node for name, node in now.items() if sent.get(name) != node]
            removed = sorted(sent.keys() - now.keys())
            sent = now
            if changed or removed or loop.time() - told_at >= _ALIVE_SECONDS:
                await context.write(pb.WatchNodesResponse(nodes=changed, removed=removed))
                told_at = loop.time()

    async def _next_pass(self, passed: asyncio.Event) -> None:
        """Wait for the next pass.

        Raises:
            ServiceError: SERVICE_STOPPING.
        """
        stopping = self._parts.stopping
        waiters = [asyncio.ensure_future(passed.wait()), asyncio.ensure_future(stopping.wait())]
        try:
            await asyncio.wait(waiters, timeout=_ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)
        if stopping.is_set():
            raise stopping_error()
        await asyncio.sleep(_PAUSE_SECONDS)

    async def _set_cordoned(self, name: str, *, cordoned: bool) -> inference_session_pb2.Node:
        current_access().permit_installation(name)
        async with self._parts.state.deciding:
            await self._parts.nodes.set_cordoned(name, cordoned)
        self._parts.reconciler.hint()
        return self._node(name)

    async def _set_draining(self, name: str, *, draining: bool) -> inference_session_pb2.Node:
        current_access().permit_installation(name)
        async with self._parts.state.deciding:
            await self._parts.nodes.set_draining(name, draining)
        self._parts.reconciler.hint()
        return self._node(name)

    def _node(self, name: str) -> inference_session_pb2.Node:
        self._parts.nodes.check(name)
        return next(node for node in self._nodes() if node.name == name)

    def _nodes(self) -> list[inference_session_pb2.Node]:
        return node_messages(self._parts.reconciler.world)
