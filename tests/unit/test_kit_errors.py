"""Errors keep their reason and evidence on every way out."""

from __future__ import annotations

import base64
import urllib.parse

import grpc
import pydantic
import pytest
from google.rpc import error_details_pb2

from podbay.v1 import errors_pb2
from podbay_kit.errors import CODES, ServiceError, from_validation_error, invalid, reason_name


def test_every_reason_has_a_code_and_none_is_unknown():
    reasons = set(errors_pb2.ErrorReason.values()) - {errors_pb2.ERROR_REASON_UNSPECIFIED}
    assert set(CODES) == reasons
    assert grpc.StatusCode.UNKNOWN not in CODES.values()
    internal = [reason for reason, code in CODES.items() if code is grpc.StatusCode.INTERNAL]
    assert internal == [errors_pb2.ERROR_REASON_INTERNAL]


def test_status_carries_reason_evidence_delay_and_violations():
    error = ServiceError(
        errors_pb2.ERROR_REASON_QUEUE_FULL,
        "The queue is full.",
        metadata={"queue": "1024"},
        retry_after=1.5,
        violations=[("a.b", "is wrong")],
    )
    status = error.to_status()
    info, retry, bad = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.RetryInfo(),
        error_details_pb2.BadRequest(),
    )
    for detail, target in zip(status.details, (info, retry, bad), strict=True):
        assert detail.Unpack(target)
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "QUEUE_FULL",
        "podbay.dev",
        {"queue": "1024"},
    )
    assert retry.retry_delay.ToMilliseconds() == 1500
    assert [(v.field, v.description) for v in bad.field_violations] == [("a.b", "is wrong")]
    assert status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


def test_call_error_carries_the_same_facts():
    error = ServiceError(
        errors_pb2.ERROR_REASON_ROUTER_DRAINING,
        "The router stops.",
        metadata={"k": "v"},
        retry_after=0.25,
        not_started=True,
    ).to_call_error()
    assert error.reason == errors_pb2.ERROR_REASON_ROUTER_DRAINING
    assert error.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert error.not_started
    assert error.retry_delay.ToMilliseconds() == 250
    assert dict(error.metadata) == {"k": "v"}


@pytest.mark.parametrize("letter", ["ü", "x", "\n", "\U0001d54f"])
def test_status_fits_into_metadata_whatever_the_evidence(letter):
    error = ServiceError(
        errors_pb2.ERROR_REASON_SESSION_FAILED,
        letter * 100_000,
        metadata={f"key{i}": letter * 50_000 for i in range(100)},
        violations=[(letter * 10_000, letter * 10_000)] * 100,
        not_started=True,
        retry_after=1,
    )
    status = error.to_status()
    message = urllib.parse.quote(status.message, safe="")
    details = base64.b64encode(status.SerializeToString())
    assert len(message) + len(details) < 8000
    assert len(status.message) > 100


def test_short_evidence_is_kept_and_of_a_long_log_the_end():
    log = "\n".join(f"line {n}" for n in range(10_000))
    error = ServiceError(
        errors_pb2.ERROR_REASON_SESSION_FAILED,
        "It failed.",
        metadata={"log": log, "exitCode": "3", "reason": "REPLICA_EXITED"},
    )
    info = error_details_pb2.ErrorInfo()
    error.to_status().details[0].Unpack(info)
    assert info.metadata["exitCode"] == "3"
    assert info.metadata["reason"] == "REPLICA_EXITED"
    assert info.metadata["log"].startswith("…")
    assert info.metadata["log"].endswith("line 9998\nline 9999")
    assert len(info.metadata["log"]) > 1000


def test_validation_errors_become_paths_without_values():
    class Inner(pydantic.BaseModel, extra="forbid"):
        count: int

    class Outer(pydantic.BaseModel, extra="forbid"):
        items: list[Inner]
        name: str = "ok"

        @pydantic.field_validator("name")
        @classmethod
        def _refuse(cls, value: str) -> str:
            raise ValueError("has a bad form")

    with pytest.raises(pydantic.ValidationError) as caught:
        Outer.model_validate(
            {"items": [{"count": "secret-value"}], "other": "secret-value", "name": "x"}
        )
    error = from_validation_error(caught.value, "request")
    assert {field for field, _ in error.violations} == {
        "request.items.0.count",
        "request.other",
        "request.name",
    }
    assert ("request.name", "has a bad form") in error.violations
    assert "secret-value" not in str(error)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT


def test_names_and_texts():
    assert reason_name(errors_pb2.ERROR_REASON_SESSION_NOT_READY) == "SESSION_NOT_READY"
    assert str(invalid("a.b", "is missing")) == (
        "INVALID_REQUEST: The request is not valid: a.b: is missing."
    )
