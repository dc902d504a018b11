"""What the client asks about quotas and audit logs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from podbay._core import quota_ops
from podbay.errors import InvalidRequestError
from podbay.types import AccountQuota, AuditRecord
from podbay.v1 import account_pb2, audit_pb2
from podbay.v1 import registry_service_pb2 as registry

NOW = datetime(2030, 1, 1, tzinfo=UTC)
KEEP: dict[str, Any] = {
    "sessions": ...,
    "replicas": ...,
    "gpus": ...,
    "model_bytes": ...,
    "requests_in_flight": ...,
}


def asked(**changes: Any) -> registry.SetAccountQuotaRequest:
    request = quota_ops.set_account_quota("acme", **{**KEEP, **changes}).request
    assert isinstance(request, registry.SetAccountQuotaRequest)
    return request


def test_what_is_not_given_stays_and_none_lifts() -> None:
    assert asked() == registry.SetAccountQuotaRequest(account="acme")
    request = asked(sessions=0, model_bytes=None, gpus={"t4": 2, "a100": None})
    assert request.quota == account_pb2.AccountQuota(sessions=0, gpus={"t4": 2})
    assert sorted(request.unlimited) == ["gpus.a100", "modelBytes"]
    assert list(asked(gpus=None).unlimited) == ["gpus"]


@pytest.mark.parametrize(
    "changes", [{"sessions": -1}, {"replicas": "4"}, {"gpus": {"t4": 1.5}}, {"sessions": True}]
)
def test_what_is_no_limit_is_refused_before_it_is_sent(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        asked(**changes)


def test_a_quota_comes_back() -> None:
    message = account_pb2.AccountQuota(replicas=0, gpus={"t4": 1})
    operation = quota_ops.get_account_quota("acme")
    answer = registry.GetAccountQuotaResponse(quota=message, model_bytes_used=7)
    assert operation.decode(answer) == AccountQuota(replicas=0, gpus={"t4": 1})
    assert quota_ops.get_model_bytes("acme").decode(answer) == 7


def test_both_services_are_asked_alike() -> None:
    question = quota_ops.AuditQuestion(account="acme", failed=False, since=NOW, limit=5000)
    assert question.services == ("registry", "session-manager")
    methods = []
    for service in question.services:
        operation = quota_ops.list_audit_records(question, service, "token", 5000)
        request: Any = operation.request
        assert request.filter.account == "acme"
        assert request.filter.HasField("failed")
        assert not request.filter.failed
        assert request.filter.since.ToDatetime(tzinfo=UTC) == NOW
        assert (request.page_token, request.page_size) == ("token", 1000)
        methods.append(operation.path.rpartition("/")[2])
    assert methods == ["ListAuditRecords", "ListSessionAuditRecords"]


@pytest.mark.parametrize(
    "question",
    [quota_ops.AuditQuestion(service="router"), quota_ops.AuditQuestion(limit=0)],
)
def test_a_question_that_nobody_can_answer(question: quota_ops.AuditQuestion) -> None:
    with pytest.raises(InvalidRequestError):
        _ = question.services


def record(seconds: int, **fields: Any) -> audit_pb2.AuditRecord:
    made = audit_pb2.AuditRecord(id=str(seconds), **fields)
    made.time.FromSeconds(1_893_456_000 + seconds)
    return made


def test_entries_of_several_services_come_in_one_order() -> None:
    found: list[AuditRecord] = []
    question = quota_ops.AuditQuestion()
    for service, seconds in (("registry", (5, 1)), ("session-manager", (9, 3))):
        operation = quota_ops.list_audit_records(question, service, "", 10)
        answer = operation.response()
        answer.records.extend(record(at, reason=25, code=7) for at in seconds)  # type: ignore[attr-defined]
        found += operation.decode(answer).items
    newest = quota_ops.newest_first(found, 3)
    assert [(each.id, each.service) for each in newest] == [
        ("9", "session-manager"),
        ("5", "registry"),
        ("3", "session-manager"),
    ]
    assert newest[0].reason == "PERMISSION_DENIED"
    assert newest[0].time > NOW
