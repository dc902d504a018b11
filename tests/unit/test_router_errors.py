"""How failures are told."""

from datetime import UTC, datetime

import grpc
import pytest
from google.rpc import code_pb2

from podbay.v1 import errors_pb2
from podbay_inference_router import failures
from podbay_inference_router.errors_map import code_of_status, parse_retry_after, refused
from podbay_inference_router.jsontext import find_fault
from podbay_inference_router.servicer import to_service_error


def test_no_status_reads_as_a_defect_of_the_router() -> None:
    for status in range(300, 1000):
        assert code_of_status(status) not in (
            code_pb2.OK,
            code_pb2.UNKNOWN,
            code_pb2.INTERNAL,
            code_pb2.CANCELLED,
            code_pb2.UNAUTHENTICATED,
        )


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "INVALID_ARGUMENT"),
        (422, "INVALID_ARGUMENT"),
        (401, "PERMISSION_DENIED"),
        (403, "PERMISSION_DENIED"),
        (404, "NOT_FOUND"),
        (408, "DEADLINE_EXCEEDED"),
        (504, "DEADLINE_EXCEEDED"),
        (409, "ABORTED"),
        (413, "RESOURCE_EXHAUSTED"),
        (429, "RESOURCE_EXHAUSTED"),
        (501, "UNIMPLEMENTED"),
        (502, "UNAVAILABLE"),
        (503, "UNAVAILABLE"),
        (302, "FAILED_PRECONDITION"),
        (418, "FAILED_PRECONDITION"),
        (500, "ABORTED"),
        (599, "ABORTED"),
    ],
)
def test_http_statuses_have_codes(status: int, code: str) -> None:
    assert code_of_status(status) == code_pb2.Code.Value(code)


def refusal(
    status: int = 500,
    body: bytes = b"",
    retry_after: str = "",
    request: bytes | None = b"{}",
    location: str = "",
) -> errors_pb2.CallError:
    return refused(
        status,
        body,
        retry_after=retry_after,
        location=location,
        session_id="s",
        replica_id="r",
        request_json=request,
    )


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_tells_where_to_and_the_way_out(status: int) -> None:
    error = refusal(status, b"<html>moved</html>", location="/generate/")
    assert error.reason == errors_pb2.ERROR_REASON_REPLICA_REFUSED
    assert error.code == code_pb2.FAILED_PRECONDITION
    assert error.metadata["location"] == "/generate/"
    assert error.metadata["detail"] == "<html>moved</html>"
    assert "sends the call to /generate/, and the router follows no redirects." in error.message
    assert "a slash at its end" in error.message


def test_a_redirect_is_bounded_and_steers_no_terminal() -> None:
    error = refusal(307, location="/\x1b[2J\x9b" + 5000 * "x")
    assert error.metadata["location"] == "/\ufffd[2J\ufffd" + 1018 * "x"
    assert len(error.message) < 2000
    assert "\x1b" not in error.message


def test_a_redirect_without_a_location_says_so() -> None:
    error = refusal(308)
    assert "location" not in error.metadata
    assert "another address that it does not name" in error.message


@pytest.mark.parametrize("status", [300, 304, 404])
def test_a_location_of_another_status_is_left_out(status: int) -> None:
    error = refusal(status, b"no", location="/there")
    assert "location" not in error.metadata
    assert "/there" not in error.message


def test_a_refusal_tells_status_replica_and_text() -> None:
    error = refusal(503, b"overloaded", "7")
    assert error.reason == errors_pb2.ERROR_REASON_REPLICA_REFUSED
    assert dict(error.metadata) == {
        "session": "s",
        "replica": "r",
        "httpStatus": "503",
        "detail": "overloaded",
    }
    assert "503" in error.message
    assert "overloaded" in error.message
    assert error.retry_delay.seconds == 7
    assert not error.not_started


def test_an_answer_that_cannot_be_used_leads_to_the_log() -> None:
    assert "podbay logs s" in failures.bad_answer("s", "r", "it is not JSON").message


def test_a_long_text_is_cut() -> None:
    assert len(refusal(500, b"x" * 10_000).message) < 4300


def test_bytes_that_are_no_text_do_not_break_the_error() -> None:
    assert refusal(500, b"\xff\xfe").metadata["detail"] == "\ufffd\ufffd"


def test_a_refusal_steers_no_terminal() -> None:
    error = refusal(500, "a\x1b[2J\x07\x9bb\x00\r\n\tc\u00a0é".encode())
    assert error.metadata["detail"] == "a\ufffd[2J\ufffd\ufffdb\ufffd\n\tc\u00a0é"
    assert error.message.endswith(error.metadata["detail"])


def test_a_request_that_is_no_json_is_the_reason() -> None:
    error = refusal(422, b"bad", request=b'{"a": 1,\n  b}')
    assert error.reason == errors_pb2.ERROR_REASON_MALFORMED_JSON
    assert error.code == code_pb2.INVALID_ARGUMENT
    assert error.metadata["line"] == "2"
    assert error.metadata["column"] == "3"
    assert error.metadata["httpStatus"] == "422"
    assert error.violations[0].field == "body"


@pytest.mark.parametrize("request_json", [None, b"{}"])
def test_a_good_request_is_not_blamed(request_json: bytes | None) -> None:
    assert refusal(400, request=request_json).reason == errors_pb2.ERROR_REASON_REPLICA_REFUSED


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b"{}", None),
        (b" [1, 2]\n", None),
        (b"9" * 5000, None),
        (b"[" * 100_000, None),
        (b"", (1, 1)),
        (b"{} x", (1, 4)),
        (b"NaN", (1, 1)),
        (b'{"a"\n:\xff}', (2, 2)),
    ],
)
def test_the_fault_is_found(text: bytes, place: tuple[int, int] | None) -> None:
    fault = find_fault(text)
    assert (fault and (fault.line, fault.column)) == place


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", None),
        ("5", 5.0),
        (" 5 ", 5.0),
        ("-5", None),
        ("soon", None),
        ("99999999999999999999", 3600.0),
        ("Tue, 01 Jan 2030 00:00:10 GMT", 10.0),
        ("Mon, 01 Jan 2029 00:00:10 GMT", 0.0),
        ("Tue, 99 Jan 2030", None),
    ],
)
def test_retry_after_is_read_in_both_forms(value: str, seconds: float | None) -> None:
    assert parse_retry_after(value, datetime(2030, 1, 1, tzinfo=UTC)) == seconds


def test_a_failure_keeps_its_facts_as_a_status() -> None:
    error = to_service_error(failures.session_not_ready("s", "exit code 3", {"exitCode": "3"}))
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert error.metadata == {"session": "s", "exitCode": "3"}
    assert error.retry_after == 1.0
    assert error.not_started
    assert "exit code 3" in error.message
    assert to_service_error(failures.cancelled(not_started=False)).retry_after is None


def test_an_end_without_a_known_reason_is_a_termination() -> None:
    error = failures.session_ended("s", errors_pb2.ERROR_REASON_UNSPECIFIED, "", {})
    assert error.reason == errors_pb2.ERROR_REASON_SESSION_TERMINATED


def test_the_way_out_of_an_end_is_told_once() -> None:
    reason = errors_pb2.ERROR_REASON_SESSION_FAILED
    told = failures.session_ended("s", reason, "Mend it, and create a new session.", {}).message
    assert told.lower().count("create a new session") == 1
    assert told.endswith("session.")
    for words in (
        "It was deleted. Create a new one to go on.",
        "Create a new one, with an expiry.",
    ):
        told = failures.session_ended("s", reason, words, {}).message
        assert told.endswith(words)
    told = failures.session_ended("s", reason, "exit code 3.", {}).message
    assert told.endswith("exit code 3. Create a new session.")
