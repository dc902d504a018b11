"""The tree of errors, and where they come from."""

from __future__ import annotations

import pickle

import pydantic
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from podbay import errors
from podbay._core import wire_errors
from podbay.v1 import errors_pb2
from podbay_kit.errors import CODES, ServiceError

NAMES = [
    name.removeprefix("ERROR_REASON_")
    for name in errors_pb2.ErrorReason.keys()  # noqa: SIM118 # not a dict
    if name != "ERROR_REASON_UNSPECIFIED"
]


@pytest.mark.parametrize("reason", ["REPLICA_REFUSED", "REPLICA_BAD_ANSWER"])
def test_what_only_the_service_can_mend_leads_to_its_logs(reason: str) -> None:
    # What such a replica says of itself is no way out.
    error = errors.error_for(reason, "The replica answered with HTTP status 500: boom")
    assert "inferencesessions.logs(ID)" in str(error)


def from_service(error: ServiceError) -> errors.PodbayError:
    """Return what the client makes of a service's error."""
    trailing = [("grpc-status-details-bin", error.to_status().SerializeToString())]
    return wire_errors.from_status(
        error.code.name, error.message, trailing, what="try", address="h:1"
    )


def test_every_reason_of_the_wire_is_known() -> None:
    assert list(errors.REASONS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_codes_are_those_of_the_services(name: str) -> None:
    number = errors_pb2.ErrorReason.Value(f"ERROR_REASON_{name}")
    assert errors.REASONS[name].code == CODES[number].name
    assert 400 <= errors.REASONS[name].status_code < 600


@pytest.mark.parametrize("name", NAMES)
def test_an_error_travels_whole_both_ways(name: str) -> None:
    sent = ServiceError(
        errors_pb2.ErrorReason.Value(f"ERROR_REASON_{name}"),
        "It did not work.",
        metadata={"exitCode": "3"},
        retry_after=1.5,
        violations=[("a.b", "is wrong")],
        not_started=True,
    )
    for got in (from_service(sent), wire_errors.from_call_error(sent.to_call_error())):
        assert type(got) is errors.REASONS[name].kind
        assert (got.reason, got.message, got.code) == (name, "It did not work.", sent.code.name)
        assert got.metadata == {"exitCode": "3"}
        assert (got.retry_after, got.not_started) == (1.5, True)
        assert got.violations == (("a.b", "is wrong"),)


def test_text_shows_message_reason_evidence_and_way_out() -> None:
    error = errors.error_for(
        "REPLICA_EXITED",
        "Replica r1 ended by itself.",
        metadata={"exitCode": "3", "log": "one\ntwo"},
        retry_after=2,
    )
    assert str(error) == (
        "[424] Replica r1 ended by itself. (REPLICA_EXITED)\n"
        "  exitCode: 3\n"
        "  log:\n"
        "    one\n"
        "    two\n"
        "  Another try may help after 2 s.\n"
        "  client.inferencesessions.logs(ID) has the whole log."
    )


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("INVALID_REQUEST", ValueError),
        ("MODEL_NOT_FOUND", LookupError),
        ("DEADLINE_EXCEEDED", TimeoutError),
        ("CONNECTION_LOST", ConnectionError),
        ("SESSION_NOT_READY", errors.PodbayError),
    ],
)
def test_errors_are_of_python_s_kinds_and_can_be_pickled(name: str, base: type[Exception]) -> None:
    error = errors.error_for(name, "Why.", metadata={"a": "b"}, violations=[("x", "y")])
    assert isinstance(error, base)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__


def test_replica_errors_have_the_replica_s_status() -> None:
    with_status = errors.error_for("REPLICA_REFUSED", "No.", metadata={"httpStatus": "429"})
    without = errors.error_for("REPLICA_REFUSED", "No.")
    assert isinstance(with_status, errors.ReplicaError)
    assert isinstance(without, errors.ReplicaError)
    assert (with_status.http_status, with_status.status_code) == (429, 429)
    assert (without.http_status, without.status_code) == (None, 502)


def test_an_error_is_of_one_branch() -> None:
    """What was answered is a StatusError, what was not a TransportError; never both."""
    both = {}
    for name, known in errors.REASONS.items():
        branches = (
            issubclass(known.kind, errors.StatusError),
            issubclass(known.kind, errors.TransportError),
        )
        both[name] = branches
    transport = {name for name, (_, silent) in both.items() if silent}
    assert transport == {
        "SERVICE_UNREACHABLE",
        "CONNECTION_LOST",
        "TLS_CERTIFICATE_REJECTED",
        "TLS_MISMATCH",
        "TLS_CLIENT_CERTIFICATE_REFUSED",
        "PLAIN_TEXT_REFUSED",
    }
    assert {name for name, branches in both.items() if branches == (False, False)} == {"CANCELLED"}
    assert (True, True) not in both.values()
    bare = wire_errors.from_status("DEADLINE_EXCEEDED", "", None, what="try", address="h:1")
    assert isinstance(bare, errors.TransportError)
    assert isinstance(bare, errors.DeadlineExceededError)
    assert not isinstance(bare, errors.StatusError)
    assert isinstance(wire_errors.unreachable("registry", "h:1", 1.0), errors.UnavailableError)


def test_a_status_error_has_what_an_http_error_has() -> None:
    error = errors.error_for(
        "MODEL_NOT_FOUND",
        "There is no model 'x'.",
        metadata={"a": "b"},
        violations=[("id", "is none")],
        retry_after=2.0,
    )
    assert isinstance(error, errors.StatusError)
    assert (error.status, error.status_code) == (404, 404)
    assert str(error).startswith("[404] There is no model 'x'.")
    assert error.payload == {
        "detail": "There is no model 'x'.",
        "reason": "MODEL_NOT_FOUND",
        "metadata": {"a": "b"},
        "violations": [{"field": "id", "description": "is none"}],
        "retryAfter": 2.0,
    }
    lost = errors.error_for("CONNECTION_LOST", "Gone.")
    assert not hasattr(lost, "status")
    assert str(lost).startswith("Gone.")


def test_a_reason_of_a_newer_service_is_kept() -> None:
    error = errors.error_for("BRAND_NEW", "New.", code="UNAVAILABLE")
    assert type(error) is errors.BusyError
    assert (error.reason, error.status_code) == ("BRAND_NEW", 500)
    assert type(errors.error_for("BRAND_NEW", "New.")) is errors.InternalError


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("UNAVAILABLE", "CONNECTION_LOST"),
        ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
        ("CANCELLED", "CANCELLED"),
        ("UNIMPLEMENTED", "METHOD_NOT_FOUND"),
        ("DATA_LOSS", "INTERNAL"),
    ],
)
@pytest.mark.parametrize("trailing", [None, [("grpc-status-details-bin", b"\xff")]])
def test_statuses_without_details(
    code: str, reason: str, trailing: list[tuple[str, str | bytes]] | None
) -> None:
    error = wire_errors.from_status(code, "text", trailing, what="get the model", address="h:1")
    assert (error.reason, error.code) == (reason, code)
    assert "get the model" in error.message
    assert error.metadata["grpcDetails"] == "text"


def test_details_of_another_domain_are_not_ours() -> None:
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason="SESSION_FAILED", domain="example.com"))
    status = status_pb2.Status(code=14, message="m", details=[info])
    trailing = [("grpc-status-details-bin", status.SerializeToString())]
    error = wire_errors.from_status("UNAVAILABLE", "m", trailing, what="try", address="h:1")
    assert error.reason == "CONNECTION_LOST"


def test_unknown_numbers_do_not_break_the_client() -> None:
    error = wire_errors.from_call_error(
        errors_pb2.CallError(
            code=999, reason=9999, message="m", retry_delay=duration_pb2.Duration(seconds=1)
        )
    )
    assert (error.reason, error.code, error.retry_after) == ("REASON_9999", "UNKNOWN", 1.0)


def test_validation_errors_have_paths_and_no_input() -> None:
    class Model(pydantic.BaseModel):
        numbers: list[int]

    with pytest.raises(pydantic.ValidationError) as caught:
        Model.model_validate({"numbers": [1, "secret"]})
    error = wire_errors.from_validation_error(caught.value, "The model")
    assert error.violations[0][0] == "numbers.1"
    assert "secret" not in str(error)
