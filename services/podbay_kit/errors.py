"""Errors as part of the interface: a reason out of the catalogue, the evidence, the way out.

The catalogue is `podbay.v1.errors_pb2.ErrorReason`. A `ServiceError` may be raised anywhere in a
service; at the edge it becomes a `google.rpc.Status` (unary and streaming RPCs) or a `CallError`
(a call on an Exchange stream).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from podbay.v1 import errors_pb2
from podbay_kit.starting import StartError

if TYPE_CHECKING:
    import pydantic

__all__ = [
    "CODES",
    "ERROR_DOMAIN",
    "ServiceError",
    "StartError",
    "from_validation_error",
    "invalid",
    "reason_name",
]

ERROR_DOMAIN: Final = "podbay.dev"
"""The `domain` of every ErrorInfo."""

_PREFIX: Final = "ERROR_REASON_"

# From 8 KiB of metadata on, gRPC refuses a part of all answers by lot. The message is in them
# twice: percent-encoded (three bytes for one that is not ASCII), and in base64 with the evidence.
_MAX_ENCODED_MESSAGE: Final = 2000
_MAX_METADATA: Final = 1200
_MAX_VIOLATIONS: Final = 20
_MAX_VIOLATION_BYTES: Final = 800
_PERCENT_ENCODED: Final = 3
_CUT: Final = "…"

_C = grpc.StatusCode
_R = errors_pb2

CODES: Final[Mapping[int, grpc.StatusCode]] = {
    _R.ERROR_REASON_INVALID_REQUEST: _C.INVALID_ARGUMENT,
    _R.ERROR_REASON_MALFORMED_JSON: _C.INVALID_ARGUMENT,
    _R.ERROR_REASON_BODY_TOO_LARGE: _C.RESOURCE_EXHAUSTED,
    _R.ERROR_REASON_INVALID_PAGE_TOKEN: _C.INVALID_ARGUMENT,
    _R.ERROR_REASON_REQUEST_ID_REUSED: _C.ALREADY_EXISTS,
    _R.ERROR_REASON_REVISION_COMPACTED: _C.OUT_OF_RANGE,
    _R.ERROR_REASON_METHOD_NOT_FOUND: _C.UNIMPLEMENTED,
    _R.ERROR_REASON_TOKEN_MISSING: _C.UNAUTHENTICATED,
    _R.ERROR_REASON_TOKEN_INVALID: _C.UNAUTHENTICATED,
    _R.ERROR_REASON_TOKEN_EXPIRED: _C.UNAUTHENTICATED,
    _R.ERROR_REASON_TOKEN_REVOKED: _C.UNAUTHENTICATED,
    _R.ERROR_REASON_TOKEN_FOR_OTHER_SESSION: _C.PERMISSION_DENIED,
    _R.ERROR_REASON_PERMISSION_DENIED: _C.PERMISSION_DENIED,
    _R.ERROR_REASON_ACCOUNT_NOT_FOUND: _C.NOT_FOUND,
    _R.ERROR_REASON_API_TOKEN_NOT_FOUND: _C.NOT_FOUND,
    _R.ERROR_REASON_MODEL_NOT_FOUND: _C.NOT_FOUND,
    _R.ERROR_REASON_INFERENCE_SERVICE_NOT_FOUND: _C.NOT_FOUND,
    _R.ERROR_REASON_INFERENCE_SESSION_NOT_FOUND: _C.NOT_FOUND,
    _R.ERROR_REASON_REPLICA_NOT_FOUND: _C.NOT_FOUND,
    _R.ERROR_REASON_NODE_NOT_FOUND: _C.NOT_FOUND,
    _R.ERROR_REASON_ALREADY_EXISTS: _C.ALREADY_EXISTS,
    _R.ERROR_REASON_REFERENCE_DELETED: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_SESSION_NOT_READY: _C.UNAVAILABLE,
    _R.ERROR_REASON_SESSION_TERMINATED: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_SESSION_EXPIRED: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_SESSION_FAILED: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_COMMAND_NOT_FOUND: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_COMMAND_NOT_EXECUTABLE: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_MOCK_NOT_IMPORTABLE: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_REPLICA_EXITED: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_REPLICA_KILLED: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_NEVER_READY: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_PORT_TAKEN: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_WORKING_DIRECTORY_NOT_FOUND: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_UNSUPPORTED_SERVICE: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_START_FAILED: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_REPLICA_LOST: _C.UNAVAILABLE,
    _R.ERROR_REASON_PROBE_FAILED: _C.UNAVAILABLE,
    _R.ERROR_REASON_NO_NODE_AVAILABLE: _C.UNAVAILABLE,
    _R.ERROR_REASON_REPLICA_STOPPED: _C.UNAVAILABLE,
    _R.ERROR_REASON_MOCK_PROCESS_ENDED: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_INSUFFICIENT_CAPACITY: _C.UNAVAILABLE,
    _R.ERROR_REASON_NO_SUCH_GPU_TYPE: _C.UNAVAILABLE,
    _R.ERROR_REASON_NODE_LOST: _C.UNAVAILABLE,
    _R.ERROR_REASON_GPU_FAILED: _C.UNAVAILABLE,
    _R.ERROR_REASON_CRASH_LOOP: _C.UNAVAILABLE,
    _R.ERROR_REASON_NODE_IN_USE: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_NODE_NOT_DECLARED: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_PORT_NOT_OPENED: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_FETCH_FAILED: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_TOO_MANY_SIGNING_KEYS: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_TLS_CERTIFICATE_REJECTED: _C.UNAVAILABLE,
    _R.ERROR_REASON_TLS_MISMATCH: _C.UNAVAILABLE,
    _R.ERROR_REASON_TLS_CLIENT_CERTIFICATE_REFUSED: _C.UNAVAILABLE,
    _R.ERROR_REASON_PLAIN_TEXT_REFUSED: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_SERVICE_IDENTITY_DENIED: _C.PERMISSION_DENIED,
    _R.ERROR_REASON_REPLICA_REFUSED: _C.ABORTED,
    _R.ERROR_REASON_REPLICA_UNREACHABLE: _C.UNAVAILABLE,
    _R.ERROR_REASON_REPLICA_CONNECTION_LOST: _C.UNAVAILABLE,
    _R.ERROR_REASON_REPLICA_BAD_ANSWER: _C.ABORTED,
    _R.ERROR_REASON_DEADLINE_EXCEEDED: _C.DEADLINE_EXCEEDED,
    _R.ERROR_REASON_QUEUE_FULL: _C.RESOURCE_EXHAUSTED,
    _R.ERROR_REASON_CANCELLED: _C.CANCELLED,
    _R.ERROR_REASON_ROUTER_DRAINING: _C.UNAVAILABLE,
    _R.ERROR_REASON_ROUTER_NOT_SYNCED: _C.UNAVAILABLE,
    _R.ERROR_REASON_DUPLICATE_CALL_ID: _C.INVALID_ARGUMENT,
    _R.ERROR_REASON_ACCOUNT_LIMIT: _C.RESOURCE_EXHAUSTED,
    _R.ERROR_REASON_REPLICA_FAILING: _C.UNAVAILABLE,
    _R.ERROR_REASON_ROUTER_OUT_OF_FILES: _C.UNAVAILABLE,
    _R.ERROR_REASON_ADAPTER_FAILED: _C.INVALID_ARGUMENT,
    _R.ERROR_REASON_CONNECTION_LOST: _C.UNAVAILABLE,
    _R.ERROR_REASON_SERVICE_UNREACHABLE: _C.UNAVAILABLE,
    _R.ERROR_REASON_DEPENDENCY_UNAVAILABLE: _C.UNAVAILABLE,
    _R.ERROR_REASON_STORE_UNAVAILABLE: _C.UNAVAILABLE,
    _R.ERROR_REASON_SERVICE_STOPPING: _C.UNAVAILABLE,
    _R.ERROR_REASON_INTERNAL: _C.INTERNAL,
    _R.ERROR_REASON_IMAGE_NOT_FOUND: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_IMAGE_DIGEST_NOT_FOUND: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_REGISTRY_UNREACHABLE: _C.UNAVAILABLE,
    _R.ERROR_REASON_IMAGE_PULL_DENIED: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_DISK_FULL: _C.UNAVAILABLE,
    _R.ERROR_REASON_GPU_UNAVAILABLE: _C.UNAVAILABLE,
    _R.ERROR_REASON_DATA_UNAVAILABLE: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_OUT_OF_MEMORY: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_MODEL_NOT_READY: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_MODEL_NOT_UPLOADABLE: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_MODEL_FILE_NOT_FOUND: _C.NOT_FOUND,
    _R.ERROR_REASON_MODEL_FILES_MISSING: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_MODEL_FILE_DAMAGED: _C.DATA_LOSS,
    _R.ERROR_REASON_DIGEST_MISMATCH: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_UPLOAD_OFFSET_MISMATCH: _C.OUT_OF_RANGE,
    _R.ERROR_REASON_TRANSFER_INTERRUPTED: _C.ABORTED,
    _R.ERROR_REASON_STORAGE_FULL: _C.RESOURCE_EXHAUSTED,
    _R.ERROR_REASON_MODEL_FILES_ELSEWHERE: _C.FAILED_PRECONDITION,
    _R.ERROR_REASON_QUOTA_LIMIT: _C.UNAVAILABLE,
    _R.ERROR_REASON_ACCOUNT_STORAGE_FULL: _C.RESOURCE_EXHAUSTED,
    _R.ERROR_REASON_NOT_LEADER: _C.UNAVAILABLE,
}
"""The gRPC code of each reason, unless the error says otherwise."""


def reason_name(reason: int) -> str:
    """Return the name of a reason as ErrorInfo carries it, as "SESSION_NOT_READY"."""
    return errors_pb2.ErrorReason.Name(errors_pb2.ErrorReason.ValueType(reason)).removeprefix(
        _PREFIX
    )


def _cut(text: str, limit: int, *, cost: int = 1, keep_end: bool = False) -> str:
    """Cut a text to `limit` bytes of UTF-8.

    Args:
        text: The text.
        limit: The most bytes.
        cost: What a byte that is not printable ASCII counts.
        keep_end: Whether the end is worth more than the beginning.
    """
    data = text.encode()
    if len(data) * cost <= limit:
        return text
    size = 0
    for index, byte in enumerate(reversed(data) if keep_end else data):
        size += 1 if 0x20 <= byte < 0x7F else cost
        if size > limit - len(_CUT.encode()) * cost:
            # At most the mark's own bytes are given away where the text would just have fitted.
            kept = data[len(data) - index :] if keep_end else data[:index]
            shown = kept.decode(errors="ignore")
            return _CUT + shown if keep_end else shown + _CUT
    return text


def _bounded(metadata: Mapping[str, str]) -> dict[str, str]:
    """Cut evidence to what fits into a response: the longest parts first, of a log the start."""
    left = _MAX_METADATA
    bounded: dict[str, str] = {}
    for key, value in sorted(metadata.items(), key=lambda item: len(item[1])):
        left -= len(key)
        if left <= len(_CUT.encode()):
            break
        bounded[key] = _cut(value, left, keep_end=key == "log")
        left -= len(bounded[key].encode())
    return bounded


def _bounded_violations(violations: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    left = _MAX_VIOLATION_BYTES
    bounded: list[tuple[str, str]] = []
    for field, description in violations[:_MAX_VIOLATIONS]:
        pair = _cut(field, 200), _cut(description, 200)
        left -= len(pair[0].encode()) + len(pair[1].encode())
        if left < 0 and bounded:
            break
        bounded.append(pair)
    return bounded


class ServiceError(Exception):
    """A failure that is told to the caller.

    Args:
        reason: Why, out of the catalogue.
        message: Why, for people: what happened, the evidence, the way out.
        code: The gRPC code; that of the reason in `CODES` unless given.
        metadata: The evidence in parts, as "exitCode" or "log".
        retry_after: Seconds to wait before another try; None where waiting does not help.
        violations: Pairs of a field's path and what is wrong with it.
        not_started: True where no replica has seen the call.
    """

    def __init__(
        self,
        reason: errors_pb2.ErrorReason.ValueType,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        violations: Sequence[tuple[str, str]] = (),
        not_started: bool = False,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.code = code if code is not None else CODES[reason]
        self.metadata: dict[str, str] = dict(metadata or {})
        self.retry_after = retry_after
        self.violations = tuple(violations)
        self.not_started = not_started

    def __str__(self) -> str:
        return f"{reason_name(self.reason)}: {self.message}"

    def to_call_error(self) -> errors_pb2.CallError:
        """Return the error as a call on an Exchange stream carries it."""
        error = errors_pb2.CallError(
            code=self.code.value[0],
            reason=self.reason,
            message=self.message,
            metadata=self.metadata,
            not_started=self.not_started,
            violations=[
                errors_pb2.FieldViolation(field=field, description=description)
                for field, description in self.violations[:_MAX_VIOLATIONS]
            ],
        )
        if self.retry_after is not None:
            error.retry_delay.CopyFrom(_duration(self.retry_after))
        return error

    def to_status(self) -> status_pb2.Status:
        """Return the error as an RPC's status carries it, within the limit of metadata."""
        metadata = dict(self.metadata)
        if self.not_started:
            metadata["notStarted"] = "true"
        details: list[any_pb2.Any] = [
            _any(
                error_details_pb2.ErrorInfo(
                    reason=reason_name(self.reason),
                    domain=ERROR_DOMAIN,
                    metadata=_bounded(metadata),
                )
            )
        ]
        if self.retry_after is not None:
            details.append(
                _any(error_details_pb2.RetryInfo(retry_delay=_duration(self.retry_after)))
            )
        if self.violations:
            details.append(
                _any(
                    error_details_pb2.BadRequest(
                        field_violations=[
                            error_details_pb2.BadRequest.FieldViolation(
                                field=field, description=description
                            )
                            for field, description in _bounded_violations(self.violations)
                        ]
                    )
                )
            )
        return status_pb2.Status(
            code=self.code.value[0],
            message=_cut(self.message, _MAX_ENCODED_MESSAGE, cost=_PERCENT_ENCODED),
            details=details,
        )


def invalid(path: str, description: str) -> ServiceError:
    """Return the error of a request with one broken rule.

    Args:
        path: The field's path in the JSON form, as "runner.image.digest".
        description: What is wrong with it, without the value.
    """
    return _invalid([(path, description)])


def from_validation_error(error: pydantic.ValidationError, prefix: str = "") -> ServiceError:
    """Return the error of a request that a pydantic model refuses.

    Args:
        error: What the model raised. Its input values are left out.
        prefix: The path of the model in the request, as "inferenceService".
    """
    violations = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        parts = [prefix, *(str(part) for part in detail["loc"])]
        # Pydantic's own word before the text of a validator says nothing to the caller.
        description = detail["msg"].removeprefix("Value error, ")
        violations.append((".".join(part for part in parts if part), description))
    return _invalid(violations)


def _invalid(violations: Sequence[tuple[str, str]]) -> ServiceError:
    shown = "; ".join(f"{field}: {description}" for field, description in violations[:5])
    more = f"; and {len(violations) - 5} more" if len(violations) > 5 else ""
    return ServiceError(
        errors_pb2.ERROR_REASON_INVALID_REQUEST,
        f"The request is not valid: {shown}{more}.",
        violations=violations,
    )


def _any(
    message: error_details_pb2.ErrorInfo
    | error_details_pb2.RetryInfo
    | error_details_pb2.BadRequest,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromMilliseconds(max(0, round(seconds * 1000)))
    return duration
