"""From what travels on the wire to the client's errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pydantic
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from podbay.errors import InvalidRequestError, NoAnswerError, PodbayError, error_for
from podbay.v1 import errors_pb2

__all__ = [
    "from_call_error",
    "from_status",
    "from_validation_error",
    "invalid",
    "reason_name",
    "unreachable",
]

_DETAILS_KEY: Final = "grpc-status-details-bin"
_DOMAIN: Final = "podbay.dev"
_PREFIX: Final = "ERROR_REASON_"

# The reasons of statuses that carry no details: they come from gRPC itself, or from something
# between the client and the service.
_BARE_REASONS: Final = {
    "CANCELLED": "CANCELLED",
    "DEADLINE_EXCEEDED": "DEADLINE_EXCEEDED",
    "UNAVAILABLE": "CONNECTION_LOST",
    "UNIMPLEMENTED": "METHOD_NOT_FOUND",
    "UNAUTHENTICATED": "TOKEN_INVALID",
    "PERMISSION_DENIED": "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED": "BODY_TOO_LARGE",
    "INVALID_ARGUMENT": "INVALID_REQUEST",
}


def reason_name(reason: int) -> str:
    """Return the name of a reason, as "SESSION_NOT_READY"; of an unknown one, its number."""
    try:
        return errors_pb2.ErrorReason.Name(errors_pb2.ErrorReason.ValueType(reason)).removeprefix(
            _PREFIX
        )
    except ValueError:
        return f"REASON_{reason}"


def from_status(
    code: str,
    details: str,
    trailing_metadata: Iterable[tuple[str, str | bytes]] | None,
    *,
    what: str,
    address: str,
) -> PodbayError:
    """Return the error of an RPC that ended with a status.

    Args:
        code: The name of the gRPC code, as "UNAVAILABLE".
        details: The status message.
        trailing_metadata: The trailing metadata of the RPC, with or without rich details.
        what: What was tried, as "get the model"; for statuses that explain nothing.
        address: Where the service is.
    """
    status = _rich_status(trailing_metadata)
    if status is None:
        return _bare(code, details, what, address)
    reason, metadata, retry_after = "", dict[str, str](), None
    violations: list[tuple[str, str]] = []
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        retry = error_details_pb2.RetryInfo()
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(info) and info.domain == _DOMAIN:
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToMilliseconds() / 1000
        elif detail.Unpack(bad):
            violations += [(item.field, item.description) for item in bad.field_violations]
    if not reason:
        return _bare(code, details, what, address)
    not_started = metadata.pop("notStarted", "") == "true"
    return error_for(
        reason,
        status.message,
        code=code,
        metadata=metadata,
        retry_after=retry_after,
        violations=violations,
        not_started=not_started,
    )


def from_call_error(error: errors_pb2.CallError) -> PodbayError:
    """Return the error of one call on an Exchange stream."""
    try:
        code = code_pb2.Code.Name(code_pb2.Code.ValueType(error.code))
    except ValueError:
        code = "UNKNOWN"
    return error_for(
        reason_name(error.reason),
        error.message,
        code=code,
        metadata=error.metadata,
        retry_after=(
            error.retry_delay.ToMilliseconds() / 1000 if error.HasField("retry_delay") else None
        ),
        violations=[(item.field, item.description) for item in error.violations],
        not_started=error.not_started,
    )


def from_validation_error(error: pydantic.ValidationError, what: str) -> InvalidRequestError:
    """Return the error of a request that a pydantic model refuses.

    Args:
        error: What the model raised. Its input values are left out.
        what: What is not valid, as "The model".
    """
    violations = [
        (".".join(str(part) for part in detail["loc"]), detail["msg"])
        for detail in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return _invalid(f"{what} is not valid", violations)


def invalid(field: str, description: str, what: str = "The request") -> InvalidRequestError:
    """Return the error of a request with one broken rule."""
    return _invalid(f"{what} is not valid", [(field, description)])


def _invalid(head: str, violations: list[tuple[str, str]]) -> InvalidRequestError:
    shown = "; ".join(f"{field}: {text}" if field else text for field, text in violations[:5])
    more = f"; and {len(violations) - 5} more" if len(violations) > 5 else ""
    return InvalidRequestError(
        f"{head}: {shown}{more}.", reason="INVALID_REQUEST", violations=violations
    )


def unreachable(service: str, address: str, waited: float) -> PodbayError:
    """Return the error of a service that no connection could be made to.

    Args:
        service: What it is called, as "registry".
        address: Where it should be.
        waited: How long was tried, in seconds.
    """
    return error_for(
        "SERVICE_UNREACHABLE",
        f"The {service} at {address} cannot be reached (tried for {waited:.3g} s).",
        metadata={"address": address},
        not_started=True,
    )


def _rich_status(
    trailing_metadata: Iterable[tuple[str, str | bytes]] | None,
) -> status_pb2.Status | None:
    for key, value in trailing_metadata or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _bare(code: str, details: str, what: str, address: str) -> PodbayError:
    reason = _BARE_REASONS.get(code, "INTERNAL")
    if reason == "CONNECTION_LOST":
        message = f"The connection to {address} was lost on the way to {what}."
    elif reason == "DEADLINE_EXCEEDED":
        message = f"{address} did not answer in time to {what}."
    elif reason == "CANCELLED":
        message = f"The attempt to {what} was cancelled."
    else:
        message = f"{address} refused to {what}."
    # The text of a bare status is gRPC's, or a proxy's: evidence, not explanation.
    evidence = {"address": address, "grpcCode": code, "grpcDetails": details[:500]}
    if reason == "DEADLINE_EXCEEDED":
        return NoAnswerError(message, reason=reason, code=code, metadata=evidence)
    return error_for(reason, message, code=code, metadata=evidence)
