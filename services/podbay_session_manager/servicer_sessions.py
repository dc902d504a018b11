"""The RPCs that make, show, change and end sessions."""

# ruff: noqa: ARG002 - every method of a servicer is given the request and its context.

from __future__ import annotations

from typing import Final

from google.protobuf import timestamp_pb2

from podbay.schema import convert, requests
from podbay.v1 import common_pb2
from podbay.v1 import session_manager_service_pb2 as pb
from podbay_kit.access import current_access
from podbay_kit.auth import current_principal
from podbay_kit.resource_filters import compile_filter
from podbay_kit.resource_labels import labelled
from podbay_kit.resource_messages import filter_of, read_creatable, read_valid
from podbay_kit.resource_pages import page_query
from podbay_kit.resources import RequestKey
from podbay_session_manager import commands
from podbay_session_manager.admission import build_session
from podbay_session_manager.kinds import SESSIONS
from podbay_session_manager.records import SessionRecord
from podbay_session_manager.servicer_base import Context, ServicerBase

__all__ = ["SessionServicer"]

# How long routers may take to acknowledge: an ended session that one still knows as open does
# little harm, a revoked token does.
_ENDED_SECONDS: Final = 1.0
_REVOKED_SECONDS: Final = 5.0


class SessionServicer(ServicerBase):
    """The part of the SessionManagerService that serves sessions."""

    async def CreateInferenceSession(
        self, request: pb.CreateInferenceSessionRequest, context: Context
    ) -> pb.CreateInferenceSessionResponse:
        """Start a session and return it with a token."""
        parts = self._parts
        message = request.inference_session
        wanted: requests.InferenceSessionCreateRequest = read_creatable(
            convert.from_proto, message, "inferenceSession"
        )
        current_access().permit_account(wanted.account)
        key = RequestKey.of(wanted.account, request.request_id, message)
        made = await parts.store.replay(key, parts.clock.now()) if key is not None else None
        if made is None:
            service, admission = await self._admitted(wanted)
            await parts.quotas.ensure(wanted.account)
            entity, record = build_session(wanted, service, admission, parts.clock.now())
            made = await parts.state.create(entity, record, key)
            parts.reconciler.hint()
        session, _ = await parts.state.find(made.id)
        token, _ = await parts.keys.sign(session, parts.clock.now())
        return pb.CreateInferenceSessionResponse(
            inferencesession=convert.to_proto(made), token=token
        )

    async def GetInferenceSession(
        self, request: pb.GetInferenceSessionRequest, context: Context
    ) -> pb.GetInferenceSessionResponse:
        """Return a session."""
        entity = await self._session_for(request.id)
        return pb.GetInferenceSessionResponse(inference_session=convert.to_proto(entity))

    async def ListInferenceSessions(
        self, request: pb.ListInferenceSessionsRequest, context: Context
    ) -> pb.ListInferenceSessionsResponse:
        """List sessions by page."""
        given, query = filter_of(request.filter), page_query(request.page)
        scope = current_access().scope()
        store = self._parts.store
        page = await store.database.read(
            lambda conn: store.resources.list_page(conn, SESSIONS, given, query, scope)
        )
        return pb.ListInferenceSessionsResponse(
            inference_sessions=[convert.to_proto(entity) for entity in page.items],
            page=common_pb2.PageInfo(next_page_token=page.next_token, revision=page.revision),
        )

    async def WatchInferenceSessions(
        self, request: pb.WatchInferenceSessionsRequest, context: Context
    ) -> None:
        """Send changes from a revision on, and progress while there are none."""
        watch = self._parts.store.feed.watch(
            SESSIONS,
            request.after_revision,
            stopping=self._parts.stopping,
            selected=compile_filter(filter_of(request.filter), SESSIONS),
            scope=current_access().scope(),
        )
        async for event in watch:
            response = pb.WatchInferenceSessionsResponse(revision=event.revision, type=event.type)
            if event.entity is not None:
                response.inference_session.CopyFrom(convert.to_proto(event.entity))
            await context.write(response)

    async def LabelInferenceSession(
        self, request: pb.LabelInferenceSessionRequest, context: Context
    ) -> pb.LabelInferenceSessionResponse:
        """Set and remove labels."""
        edit = convert.labels_edit_from_proto(request.labels)
        await self._session_for(request.id)
        entity = await self._parts.store.modify(
            request.id, lambda before: labelled(before, edit), self._parts.clock.now()
        )
        return pb.LabelInferenceSessionResponse(inference_session=convert.to_proto(entity))

    async def TerminateInferenceSession(
        self, request: pb.TerminateInferenceSessionRequest, context: Context
    ) -> pb.TerminateInferenceSessionResponse:
        """End a session."""
        await self._session_for(request.id)
        session = await self._parts.state.change(request.id, commands.terminate)
        self._parts.reconciler.hint()
        await self._told(session, _ENDED_SECONDS)
        return pb.TerminateInferenceSessionResponse(status=_status(session))

    async def DeleteInferenceSession(
        self, request: pb.DeleteInferenceSessionRequest, context: Context
    ) -> pb.DeleteInferenceSessionResponse:
        """End a session and mark it as deleted."""
        await self._session_for(request.id)
        session = await self._parts.state.change(request.id, commands.delete)
        self._parts.reconciler.hint()
        await self._told(session, _ENDED_SECONDS)
        return pb.DeleteInferenceSessionResponse(status=_status(session))

    async def CreateSessionToken(
        self, request: pb.CreateSessionTokenRequest, context: Context
    ) -> pb.CreateSessionTokenResponse:
        """Return another token for the calls of a session."""
        wanted = read_valid(convert.token_request_from_proto, request, "")
        entity = await self._session_for(request.id)
        service = entity.inferenceService
        current_access().permit_shown("inferenceservices", service.account, service.id)
        session, _ = await self._parts.state.find(request.id)
        commands.check_open(session)
        token, end = await self._parts.keys.sign(
            session, self._parts.clock.now(), wanted.expires, current_principal().account
        )
        expires = timestamp_pb2.Timestamp()
        expires.FromDatetime(end)
        return pb.CreateSessionTokenResponse(token=token, expires=expires)

    async def RevokeSessionTokens(
        self, request: pb.RevokeSessionTokensRequest, context: Context
    ) -> pb.RevokeSessionTokensResponse:
        """End all tokens of a session that were made so far."""
        await self._session_for(request.id)
        session = await self._parts.state.change(request.id, commands.revoke_tokens)
        acknowledged = await self._told(session, _REVOKED_SECONDS, expected=True)
        return pb.RevokeSessionTokensResponse(epoch=session.epoch, acknowledged=acknowledged)

    async def _told(
        self, session: SessionRecord, seconds: float, *, expected: bool = False
    ) -> bool:
        """Wait until the routers know how a session is now; say whether all have said so."""
        state = self._parts.state
        revision = state.announcer.table.revision_of(session.id)
        return await state.routers_have(revision, seconds, expected=expected)


def _status(session: SessionRecord) -> common_pb2.Status:
    return common_pb2.Status(
        status=session.status, reason=session.status_reason, message=session.status_message
    )
