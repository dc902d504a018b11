"""A replica's HTTP refusal as a failure of the call. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from google.rpc import code_pb2

from podbay.v1 import errors_pb2
from podbay.v1.errors_pb2 import CallError
from podbay_inference_router.failures import failure
from podbay_inference_router.jsontext import find_fault

__all__ = ["MAX_DETAIL_BYTES", "code_of_status", "parse_retry_after", "refused"]

MAX_DETAIL_BYTES: Final = 4096
"""How much of a refusal's body an error tells."""

# Looking for the fault in a larger body would hold up the other calls of the worker.
_MAX_CHECKED_BYTES: Final = 1 << 20
_MAX_RETRY_AFTER: Final = 3600.0
_MAX_LOCATION: Final = 1024
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

# People read a refusal in terminals, which controls would steer; lines and tabs stay.
_CONTROLS: Final = {
    **dict.fromkeys((*range(32), *range(127, 160)), "�"),
    ord("\n"): "\n",
    ord("\t"): "\t",
    ord("\r"): None,
}

_CODES: Final[Mapping[int, int]] = {
    400: code_pb2.INVALID_ARGUMENT,
    401: code_pb2.PERMISSION_DENIED,
    403: code_pb2.PERMISSION_DENIED,
    404: code_pb2.NOT_FOUND,
    408: code_pb2.DEADLINE_EXCEEDED,
    409: code_pb2.ABORTED,
    413: code_pb2.RESOURCE_EXHAUSTED,
    422: code_pb2.INVALID_ARGUMENT,
    429: code_pb2.RESOURCE_EXHAUSTED,
    501: code_pb2.UNIMPLEMENTED,
    502: code_pb2.UNAVAILABLE,
    503: code_pb2.UNAVAILABLE,
    504: code_pb2.DEADLINE_EXCEEDED,
}


def code_of_status(status: int) -> int:
    """Give the google.rpc.Code for an HTTP status that is not 2xx.

    UNKNOWN and INTERNAL never come: they would read as a defect of the router.
    """
    rest: int = code_pb2.ABORTED if status >= 500 else code_pb2.FAILED_PRECONDITION
    return _CODES.get(status, rest)


def parse_retry_after(value: str, now: datetime | None = None) -> float | None:
    """Read a Retry-After header.

    Args:
        value: Seconds, or an HTTP date; "" for none.
        now: The time that a date is compared with; the current time unless said.

    Returns:
        Seconds from now, at most an hour; None where there is none or it cannot be read.
    """
    value = value.strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return min(_MAX_RETRY_AFTER, float(value[:9]))
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    seconds = (date - (now or datetime.now(UTC))).total_seconds()
    return min(_MAX_RETRY_AFTER, max(0.0, seconds))


def refused(
    status: int,
    body: bytes,
    *,
    retry_after: str,
    location: str,
    session_id: str,
    replica_id: str,
    request_json: bytes | None,
) -> CallError:
    """Tell that a replica answered with a status that is not 2xx.

    Args:
        status: The HTTP status.
        body: The beginning of the answer's body.
        retry_after: The answer's Retry-After header; "" for none.
        location: The answer's Location header; "" for none.
        session_id: The session.
        replica_id: The replica.
        request_json: The request's body where it was sent as JSON, else None. If it is not JSON,
            that is the reason.

    Returns:
        The failure.
    """
    text = body[:MAX_DETAIL_BYTES].decode(errors="replace").strip()
    detail = text.translate(_CONTROLS)
    metadata = {"session": session_id, "replica": replica_id, "httpStatus": str(status)}
    if detail:
        metadata["detail"] = detail
    if status >= 400 and request_json is not None and len(request_json) <= _MAX_CHECKED_BYTES:
        fault = find_fault(request_json)
        if fault is not None:
            where = f"line {fault.line}, column {fault.column}"
            return failure(
                errors_pb2.ERROR_REASON_MALFORMED_JSON,
                f"The body is not JSON: {fault.description} at {where}. Replica {replica_id} "
                f"answered with HTTP status {status}.",
                metadata={**metadata, "line": str(fault.line), "column": str(fault.column)},
                violations=[("body", f"not JSON: {fault.description} at {where}")],
            )
    head = f"Replica {replica_id} answered with HTTP status {status}"
    message = f"{head}: {detail}" if detail else f"{head} and no text."
    if status in _REDIRECTS:
        shown = location[:_MAX_LOCATION].translate(_CONTROLS)
        if shown:
            metadata["location"] = shown
        message = (
            f"{head}, which sends the call to {shown or 'another address that it does not name'}, "
            "and the router follows no redirects. Call the endpoint by the name that the replica "
            "serves (often only a slash at its end differs), or mend the service."
        )
    return failure(
        errors_pb2.ERROR_REASON_REPLICA_REFUSED,
        message,
        code=code_of_status(status),
        metadata=metadata,
        retry_after=parse_retry_after(retry_after),
    )
