"""The RPC on the audit log."""

# ruff: noqa: ARG002 - every method of a servicer is given the request and its context.

from __future__ import annotations

from typing import Any

import grpc

from podbay.v1 import registry_service_pb2 as pb
from podbay_kit.audit_log import AuditLog

__all__ = ["AuditServicer"]


class AuditServicer:
    """The part of the RegistryService that answers questions about what was done."""

    _audit: AuditLog

    async def ListAuditRecords(
        self, request: pb.ListAuditRecordsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListAuditRecordsResponse:
        """List entries by page, the newest first."""
        records, following = await self._audit.list_page(
            request.filter, request.page_size, request.page_token
        )
        return pb.ListAuditRecordsResponse(records=records, next_page_token=following)
