"""The RPCs on what accounts use, and on the audit log."""

# ruff: noqa: ARG002 - every method of a servicer is given the request and its context.

from __future__ import annotations

from podbay.v1 import account_pb2
from podbay.v1 import session_manager_service_pb2 as pb
from podbay_kit.access import current_access
from podbay_kit.errors import invalid
from podbay_kit.quotas import GPU_PREFIX
from podbay_session_manager.quotas import usage_of
from podbay_session_manager.records import Reason
from podbay_session_manager.servicer_base import Context, ServicerBase

__all__ = ["AccountServicer"]


class AccountServicer(ServicerBase):
    """The part of the SessionManagerService that tells what accounts have and did."""

    async def GetAccountUsage(
        self, request: pb.GetAccountUsageRequest, context: Context
    ) -> pb.GetAccountUsageResponse:
        """Return what an account has, and its quota as it is known here."""
        account = request.account
        if not account:
            raise invalid("account", "is required and must not be empty")
        current_access().permit_account(account)
        state = self._parts.state
        quota, revision = self._parts.quotas.of(account)
        used = usage_of(account, state.sessions, state.replicas, quota)
        waiting = sum(
            session.account == account and session.status_reason == Reason.QUOTA_LIMIT.camel
            for session in state.sessions.values()
        )
        return pb.GetAccountUsageResponse(
            usage=account_pb2.AccountUsage(
                sessions=used.get("sessions", 0),
                replicas=used.get("replicas", 0),
                gpus={
                    name.removeprefix(GPU_PREFIX): count
                    for name, count in used.items()
                    if name.startswith(GPU_PREFIX)
                },
                waiting_sessions=waiting,
                requests_in_flight=state.usage.running(account),
            ),
            quota=quota.to_message(),
            quota_revision=revision,
        )

    async def ListSessionAuditRecords(
        self, request: pb.ListSessionAuditRecordsRequest, context: Context
    ) -> pb.ListSessionAuditRecordsResponse:
        """List entries by page, the newest first."""
        records, following = await self._parts.audit.list_page(
            request.filter, request.page_size, request.page_token
        )
        return pb.ListSessionAuditRecordsResponse(records=records, next_page_token=following)
