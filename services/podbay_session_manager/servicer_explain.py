"""The RPC that explains placements."""

# ruff: noqa: ARG002 - every method of a servicer is given the request and its context.

from __future__ import annotations

from podbay.schema import convert, requests
from podbay.v1 import session_manager_service_pb2 as pb
from podbay_kit.access import current_access
from podbay_kit.errors import invalid
from podbay_kit.resource_messages import read_creatable
from podbay_session_manager.admission import build_session
from podbay_session_manager.explain import explain_placement
from podbay_session_manager.records import SessionRecord
from podbay_session_manager.servicer_base import Context, ServicerBase

__all__ = ["ExplainServicer"]


class ExplainServicer(ServicerBase):
    """The part of the SessionManagerService that explains where replicas go."""

    async def ExplainPlacement(
        self, request: pb.ExplainPlacementRequest, context: Context
    ) -> pb.ExplainPlacementResponse:
        """Say what the replicas of a session need, and node by node what is free."""
        given = request.HasField("inference_session")
        if bool(request.id) == given:
            raise invalid("id", "give either the id of a session, or a specification")
        session = await (self._wanted(request) if given else self._existing(request.id))
        now = self._parts.clock.now().timestamp()
        return pb.ExplainPlacementResponse(
            placement=explain_placement(self._parts.reconciler.world, session, now)
        )

    async def _existing(self, session_id: str) -> SessionRecord:
        await self._session_for(session_id)
        session, _ = await self._parts.state.find(session_id)
        return session

    async def _wanted(self, request: pb.ExplainPlacementRequest) -> SessionRecord:
        wanted: requests.InferenceSessionCreateRequest = read_creatable(
            convert.from_proto, request.inference_session, "inferenceSession"
        )
        current_access().permit_account(wanted.account)
        service, admission = await self._admitted(wanted)
        await self._parts.quotas.ensure(wanted.account)
        _, record = build_session(wanted, service, admission, self._parts.clock.now())
        return record
