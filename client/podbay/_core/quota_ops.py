"""Quotas, what accounts use of them, and the audit logs: what is asked, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import EllipsisType
from typing import Any, Final

from google.protobuf.message import Message

from podbay._core.arguments import text
from podbay._core.operations import Operation, Page, Service
from podbay._core.times import optional_time, to_timestamp
from podbay._core.wire_errors import invalid
from podbay.types import AccountQuota, AccountUsage, AuditRecord
from podbay.v1 import account_pb2, audit_pb2, errors_pb2
from podbay.v1 import registry_service_pb2 as registry
from podbay.v1 import session_manager_service_pb2 as manager

__all__ = [
    "AUDIT_SERVICES",
    "AuditQuestion",
    "Change",
    "get_account_quota",
    "get_account_usage",
    "get_model_bytes",
    "list_audit_records",
    "newest_first",
    "set_account_quota",
    "with_model_bytes",
]

Change = int | None | EllipsisType
"""A limit to be set: a number, None to lift it, or ... to leave it as it is."""

AUDIT_SERVICES: Final = ("registry", "session-manager")
"""The services that keep an audit log."""

_MOST: Final = (1 << 63) - 1
_PAGE: Final = 1000


def get_account_quota(account: str) -> Operation[AccountQuota]:
    """Ask how much an account may have."""
    return _asking(account, lambda answer: _quota(answer.quota))


def get_model_bytes(account: str) -> Operation[int]:
    """Ask how many bytes the models of an account have."""
    return _asking(account, lambda answer: int(answer.model_bytes_used))


def _asking(account: str, decode: Any) -> Operation[Any]:
    return Operation(
        service=Service.REGISTRY,
        method="GetAccountQuota",
        what="get the quota of the account",
        request=registry.GetAccountQuotaRequest(account=text(account, "account")),
        response=registry.GetAccountQuotaResponse,
        decode=decode,
    )


def get_account_usage(account: str) -> Operation[AccountUsage]:
    """Ask how much an account has, but for its models."""
    return Operation(
        service=Service.SESSION_MANAGER,
        method="GetAccountUsage",
        what="get what the account uses",
        request=manager.GetAccountUsageRequest(account=text(account, "account")),
        response=manager.GetAccountUsageResponse,
        decode=lambda answer: _usage(answer.usage),
    )


def set_account_quota(
    account: str,
    *,
    sessions: Change,
    replicas: Change,
    gpus: Mapping[str, int | None] | EllipsisType | None,
    model_bytes: Change,
    requests_in_flight: Change,
) -> Operation[AccountQuota]:
    """Change how much an account may have."""
    request = registry.SetAccountQuotaRequest(account=text(account, "account"))
    numbers = {
        "sessions": (sessions, "sessions"),
        "replicas": (replicas, "replicas"),
        "model_bytes": (model_bytes, "modelBytes"),
        "requests_in_flight": (requests_in_flight, "requestsInFlight"),
    }
    for field, (change, name) in numbers.items():
        if change is None:
            request.unlimited.append(name)
        elif change is not ...:
            setattr(request.quota, field, _number(change, field))
    if gpus is None:
        request.unlimited.append("gpus")
    elif gpus is not ...:
        for kind, count in gpus.items():
            if count is None:
                request.unlimited.append(f"gpus.{text(kind, 'gpus')}")
            else:
                request.quota.gpus[text(kind, "gpus")] = _number(count, f"gpus.{kind}")
    return Operation(
        service=Service.REGISTRY,
        method="SetAccountQuota",
        what="set the quota of the account",
        request=request,
        response=registry.SetAccountQuotaResponse,
        decode=lambda answer: _quota(answer.quota),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuestion:
    """Which entries of audit logs are asked for; None selects all.

    Attributes:
        service: "registry" or "session-manager"; None for both.
        limit: How many at most, of all services together.
    """

    service: str | None = None
    account: str | None = None
    resource: str | None = None
    resource_id: str | None = None
    actor: str | None = None
    method: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    failed: bool | None = None
    limit: int = 100

    @property
    def services(self) -> tuple[str, ...]:
        """The services to ask.

        Raises:
            InvalidRequestError: There is no such service, or the limit is no number of entries.
        """
        if type(self.limit) is not int or self.limit < 1:
            raise invalid("limit", "must be at least 1")
        if self.service is None:
            return AUDIT_SERVICES
        if self.service not in AUDIT_SERVICES:
            raise invalid("service", f"must be one of {', '.join(AUDIT_SERVICES)}")
        return (self.service,)


def list_audit_records(
    question: AuditQuestion, service: str, page_token: str, size: int
) -> Operation[Page[AuditRecord]]:
    """Ask one service for a page of its audit log.

    Args:
        question: Which entries.
        service: Which service.
        page_token: The token of the page; "" for the first.
        size: How many entries at most.
    """
    selected = audit_pb2.AuditFilter()
    for field in ("account", "resource", "resource_id", "actor", "method"):
        value = getattr(question, field)
        if value is not None:
            setattr(selected, field, text(value, field))
    if question.since is not None:
        selected.since.CopyFrom(to_timestamp(question.since, "since"))
    if question.until is not None:
        selected.until.CopyFrom(to_timestamp(question.until, "until"))
    if question.failed is not None:
        selected.failed = question.failed
    own = service == "registry"
    made: Message = (
        registry.ListAuditRecordsRequest if own else manager.ListSessionAuditRecordsRequest
    )(filter=selected, page_token=page_token, page_size=min(size, _PAGE))
    return Operation(
        service=Service.REGISTRY if own else Service.SESSION_MANAGER,
        method="ListAuditRecords" if own else "ListSessionAuditRecords",
        what="list the audit log",
        request=made,
        response=(
            registry.ListAuditRecordsResponse if own else manager.ListSessionAuditRecordsResponse
        ),
        decode=lambda answer: Page(
            [_record(each, service) for each in answer.records], answer.next_page_token, 0
        ),
    )


def newest_first(records: list[AuditRecord], limit: int) -> list[AuditRecord]:
    """Return the newest entries of several services."""
    return sorted(records, key=lambda each: (each.time, each.id), reverse=True)[:limit]


def with_model_bytes(usage: AccountUsage, model_bytes: int) -> AccountUsage:
    """Return what an account has, with what its models have."""
    return replace(usage, model_bytes=model_bytes)


def _number(value: object, field: str) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise invalid(field, "must be a number from 0 on, or None for no limit")
    return value


def _quota(message: account_pb2.AccountQuota) -> AccountQuota:
    def known(field: Any) -> int | None:
        return getattr(message, field) if message.HasField(field) else None

    return AccountQuota(
        sessions=known("sessions"),
        replicas=known("replicas"),
        gpus=dict(sorted(message.gpus.items())),
        model_bytes=known("model_bytes"),
        requests_in_flight=known("requests_in_flight"),
    )


def _usage(message: account_pb2.AccountUsage) -> AccountUsage:
    return AccountUsage(
        sessions=message.sessions,
        replicas=message.replicas,
        gpus=dict(sorted(message.gpus.items())),
        model_bytes=0,
        requests_in_flight=message.requests_in_flight,
        waiting_sessions=message.waiting_sessions,
    )


def _record(message: audit_pb2.AuditRecord, service: str) -> AuditRecord:
    time = optional_time(message, "time")
    if time is None:
        raise ValueError("an entry of an audit log has no time")
    name = errors_pb2.ErrorReason.Name(message.reason) if message.reason else ""
    return AuditRecord(
        id=message.id,
        service=service,
        time=time,
        actor_account=message.actor_account,
        actor_token=message.actor_token,
        peer=message.peer,
        method=message.method,
        resource=message.resource,
        account=message.account,
        resource_id=message.resource_id,
        code=message.code,
        reason=name.removeprefix("ERROR_REASON_") or None,
        call_id=message.call_id,
        count=message.count,
        first_time=optional_time(message, "first_time"),
        details=dict(message.details),
    )
