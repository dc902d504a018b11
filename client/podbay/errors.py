"""The errors of the client: one tree, whatever failed and wherever it failed.

    PodbayError
    ├── StatusError                               it was refused, or failed, and something said so
    │   ├── InvalidRequestError (also a ValueError)   the request breaks a rule
    │   │   └── UnknownKindError (also a KeyError)    there are no resources of this kind
    │   ├── AuthenticationError                   no token, or one that is not valid
    │   ├── PermissionDeniedError                 the token does not grant this
    │   ├── NotFoundError (also a LookupError)    there is no such thing
    │   ├── ConflictError                         it exists already, or what it needs was deleted
    │   ├── SessionNotReadyError                  the session has no ready replica yet
    │   ├── SessionEndedError                     the session was terminated, or has expired
    │   ├── SessionFailedError                    the session cannot run; the evidence tells why
    │   ├── ReplicaError                          a replica refused, was lost, or answered badly
    │   ├── OverloadedError                       too many calls wait already
    │   ├── BusyError                             a service cannot do this now
    │   ├── LateError                             the time ran out at the service, or the replica
    │   ├── ModelDataError                        a stored file of a model is damaged
    │   └── InternalError                         a defect in Podbay
    ├── TransportError                            no answer came
    │   ├── UnreachableError                      there is no connection to a service
    │   ├── SecureConnectionError                 there can be none that is safe: TLS does not fit
    │   ├── ConnectionLostError (also a ConnectionError)   it was lost before the answer
    │   └── NoAnswerError                         the service was silent until the time ran out
    ├── UnavailableError                          waiting helps: BusyError or UnreachableError
    ├── DeadlineExceededError (also a TimeoutError)   the time ran out: LateError or NoAnswerError
    └── CancelledCallError                        the call was cancelled

Every error has a `reason` out of one catalogue (`REASONS`), for programs to compare. Errors can be
pickled, and hold no input data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

__all__ = [
    "REASONS",
    "AuthenticationError",
    "BusyError",
    "CancelledCallError",
    "ConflictError",
    "ConnectionLostError",
    "DeadlineExceededError",
    "InternalError",
    "InvalidRequestError",
    "LateError",
    "ModelDataError",
    "NoAnswerError",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "PodbayError",
    "ReplicaError",
    "SecureConnectionError",
    "SessionEndedError",
    "SessionFailedError",
    "SessionNotReadyError",
    "StatusError",
    "TransportError",
    "UnavailableError",
    "UnknownKindError",
    "UnreachableError",
    "error_for",
]

# How many lines of evidence str(error) shows of one entry, as of a log.
_SHOWN_LINES: Final = 20


class PodbayError(Exception):
    """Something failed. Subclasses say what kind of thing.

    Attributes:
        reason: Why, out of the catalogue, as "SESSION_NOT_READY".
        message: Why, for people.
        status_code: The HTTP status that says the same.
        code: The name of the gRPC code, as "UNAVAILABLE".
        metadata: The evidence, as "exitCode", "httpStatus" or "log".
        retry_after: Seconds after which another try may help; None where waiting does not help.
        violations: Pairs of a field's path and what is wrong with it.
        not_started: True where no replica has seen the call, so that sending it again is safe.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        code: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        violations: Sequence[tuple[str, str]] = (),
        not_started: bool = False,
    ) -> None:
        super().__init__(message)
        known = REASONS.get(reason)
        self.message = message
        self.reason = reason
        self.code = code if code is not None else (known.code if known else "UNKNOWN")
        self.metadata: dict[str, str] = dict(metadata or {})
        self.retry_after = retry_after
        self.violations: tuple[tuple[str, str], ...] = tuple(violations)
        self.not_started = not_started

    @property
    def status_code(self) -> int:
        """The HTTP status that says the same as the reason, as 503."""
        known = REASONS.get(self.reason)
        return known.status_code if known else 500

    @property
    def hint(self) -> str | None:
        """What to do about it, where the reason alone tells."""
        known = REASONS.get(self.reason)
        return known.hint if known else None

    def __str__(self) -> str:
        return self.report()

    def report(self) -> str:
        """Return the message with its reason, the evidence and the way out, in lines."""
        lines = [f"{self.message} ({self.reason})"]
        lines += [
            f"  {field or 'request'}: {description}"
            for field, description in self.violations
            if description not in self.message
        ]
        for key, value in self.metadata.items():
            if value and value not in self.message:
                lines.extend(_entry(key, value))
        if self.retry_after:
            lines.append(f"  Another try may help after {self.retry_after:g} s.")
        if self.hint is not None and self.hint not in self.message:
            lines.append(f"  {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        keywords = {
            "reason": self.reason,
            "code": self.code,
            "metadata": self.metadata,
            "retry_after": self.retry_after,
            "violations": self.violations,
            "not_started": self.not_started,
        }
        return _rebuild, (type(self), self.message, keywords)


def _rebuild(kind: type[PodbayError], message: str, keywords: dict[str, Any]) -> PodbayError:
    return kind(message, **keywords)


def _entry(key: str, value: str) -> Iterable[str]:
    lines = value.splitlines()
    if len(lines) == 1:
        return [f"  {key}: {value}"]
    return [f"  {key}:", *(f"    {line}" for line in lines[-_SHOWN_LINES:])]


class StatusError(PodbayError):
    """What was asked was refused, or failed, and a service, a replica or the client says why.

    Its text begins with the HTTP status that says the same, as "[404] There is no model …".
    """

    @property
    def status(self) -> int:
        """The HTTP status that says the same, as `status_code`."""
        return self.status_code

    @property
    def payload(self) -> dict[str, Any]:
        """The error as an HTTP API would answer it: "detail", "reason" and the evidence."""
        body: dict[str, Any] = {"detail": self.message, "reason": self.reason}
        if self.metadata:
            body["metadata"] = dict(self.metadata)
        if self.violations:
            body["violations"] = [
                {"field": field, "description": description}
                for field, description in self.violations
            ]
        if self.retry_after is not None:
            body["retryAfter"] = self.retry_after
        return body

    def __str__(self) -> str:
        return f"[{self.status_code}] {self.report()}"


class TransportError(PodbayError):
    """No answer came. Whether the request was seen is known only where `not_started` says so."""


class InvalidRequestError(StatusError, ValueError):
    """The request breaks a rule; `violations` names each field by its path."""


class UnknownKindError(InvalidRequestError, KeyError):
    """Podbay has no resources of this kind."""


class AuthenticationError(StatusError):
    """There is no token, or it is damaged, expired or revoked."""


class PermissionDeniedError(StatusError):
    """The token is valid and does not grant this."""


class NotFoundError(StatusError, LookupError):
    """There is no such resource, replica, node, account or method."""

    # KeyError is not a base: its text is the repr of its argument.


class ConflictError(StatusError):
    """What is asked does not fit what is there."""


class SessionNotReadyError(StatusError):
    """The session has no ready replica yet. Waiting helps."""


class SessionEndedError(StatusError):
    """The session was terminated or has expired. Waiting does not help."""


class SessionFailedError(StatusError):
    """The session cannot run its service; `metadata` holds the evidence."""


class ReplicaError(StatusError):
    """A replica refused the call, was lost while it worked on it, or answered badly."""

    @property
    def http_status(self) -> int | None:
        """The HTTP status that the replica answered with; None where there was none."""
        text = self.metadata.get("httpStatus", "")
        return int(text) if text.isdecimal() else None

    @property
    def status_code(self) -> int:
        """The replica's HTTP status, or the one that says the same as the reason."""
        return self.http_status or super().status_code


class OverloadedError(StatusError):
    """Too many calls of the session wait already. Waiting helps."""


class DeadlineExceededError(PodbayError, TimeoutError):
    """The time that was allowed ran out: a `LateError` or a `NoAnswerError`."""


class LateError(DeadlineExceededError, StatusError):
    """The time ran out, and a service says what it was spent on."""


class NoAnswerError(DeadlineExceededError, TransportError):
    """The time ran out, and nothing was heard of the service."""


class CancelledCallError(PodbayError):
    """The call was cancelled."""


class ConnectionLostError(TransportError, ConnectionError):
    """The connection was lost after the call was sent; whether it ran is not known."""


class UnavailableError(PodbayError):
    """A service cannot be reached, or cannot do this now. Waiting helps."""


class BusyError(UnavailableError, StatusError):
    """A service cannot do this now."""


class UnreachableError(UnavailableError, TransportError):
    """There is no connection to a service."""


class SecureConnectionError(TransportError):
    """There can be no safe connection to a service: certificates or TLS do not fit.

    Waiting does not help; `metadata` names the service's address and what does not fit.
    """


class ModelDataError(StatusError):
    """A file of a model is not what it was when it was stored; `metadata` names it."""


class InternalError(StatusError):
    """A defect in Podbay. The metadata hold the id under which the service logged it."""


class _Reason:
    """What is known of a reason: its error, its codes, and the way out."""

    __slots__ = ("code", "hint", "kind", "status_code")

    def __init__(
        self, kind: type[PodbayError], code: str, status_code: int, hint: str | None = None
    ) -> None:
        self.kind = kind
        self.code = code
        self.status_code = status_code
        self.hint = hint


_SEE_LOGS: Final = "client.inferencesessions.logs(ID) has the whole log."
_SEE_EXPLAIN: Final = "client.inferencesessions.explain_placement(ID) says what is free, by node."
_NEW_SESSION: Final = "Create a new session with client.inferencesessions.create(...)."
_LATER: Final = "Try again in a moment."

REASONS: Final[Mapping[str, _Reason]] = {
    "INVALID_REQUEST": _Reason(InvalidRequestError, "INVALID_ARGUMENT", 422),
    "MALFORMED_JSON": _Reason(InvalidRequestError, "INVALID_ARGUMENT", 400),
    "BODY_TOO_LARGE": _Reason(InvalidRequestError, "RESOURCE_EXHAUSTED", 413),
    "INVALID_PAGE_TOKEN": _Reason(
        InvalidRequestError, "INVALID_ARGUMENT", 400, "Start again from the first page."
    ),
    "REQUEST_ID_REUSED": _Reason(
        ConflictError, "ALREADY_EXISTS", 409, "Use another request id for another request."
    ),
    "REVISION_COMPACTED": _Reason(
        ConflictError, "OUT_OF_RANGE", 410, "List again, and watch from the list's revision."
    ),
    "METHOD_NOT_FOUND": _Reason(
        NotFoundError, "UNIMPLEMENTED", 501, "Is the service of the same version as the client?"
    ),
    "TOKEN_MISSING": _Reason(AuthenticationError, "UNAUTHENTICATED", 401),
    "TOKEN_INVALID": _Reason(AuthenticationError, "UNAUTHENTICATED", 401),
    "TOKEN_EXPIRED": _Reason(
        AuthenticationError,
        "UNAUTHENTICATED",
        401,
        "client.inferencesessions.token(ID) makes a new session token, "
        "client.tokens.create(ACCOUNT) a new API token.",
    ),
    "TOKEN_REVOKED": _Reason(AuthenticationError, "UNAUTHENTICATED", 401),
    "TOKEN_FOR_OTHER_SESSION": _Reason(PermissionDeniedError, "PERMISSION_DENIED", 403),
    "PERMISSION_DENIED": _Reason(PermissionDeniedError, "PERMISSION_DENIED", 403),
    "ACCOUNT_NOT_FOUND": _Reason(NotFoundError, "NOT_FOUND", 404),
    "API_TOKEN_NOT_FOUND": _Reason(NotFoundError, "NOT_FOUND", 404),
    "MODEL_NOT_FOUND": _Reason(NotFoundError, "NOT_FOUND", 404),
    "INFERENCE_SERVICE_NOT_FOUND": _Reason(NotFoundError, "NOT_FOUND", 404),
    "INFERENCE_SESSION_NOT_FOUND": _Reason(NotFoundError, "NOT_FOUND", 404),
    "REPLICA_NOT_FOUND": _Reason(NotFoundError, "NOT_FOUND", 404),
    "NODE_NOT_FOUND": _Reason(NotFoundError, "NOT_FOUND", 404),
    "ALREADY_EXISTS": _Reason(ConflictError, "ALREADY_EXISTS", 409),
    "REFERENCE_DELETED": _Reason(ConflictError, "FAILED_PRECONDITION", 409),
    "SESSION_NOT_READY": _Reason(
        SessionNotReadyError,
        "UNAVAILABLE",
        503,
        "Wait with wait_ready(), or call with infer(..., wait=True).",
    ),
    "SESSION_TERMINATED": _Reason(SessionEndedError, "FAILED_PRECONDITION", 410, _NEW_SESSION),
    "SESSION_EXPIRED": _Reason(SessionEndedError, "FAILED_PRECONDITION", 410, _NEW_SESSION),
    "SESSION_FAILED": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424, _SEE_LOGS),
    "COMMAND_NOT_FOUND": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424),
    "COMMAND_NOT_EXECUTABLE": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424),
    "MOCK_NOT_IMPORTABLE": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424),
    "REPLICA_EXITED": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424, _SEE_LOGS),
    "REPLICA_KILLED": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424, _SEE_LOGS),
    "NEVER_READY": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424, _SEE_LOGS),
    "PORT_TAKEN": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424),
    "WORKING_DIRECTORY_NOT_FOUND": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424),
    "UNSUPPORTED_SERVICE": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424),
    "START_FAILED": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424, _SEE_LOGS),
    "REPLICA_LOST": _Reason(ReplicaError, "UNAVAILABLE", 502, _SEE_LOGS),
    "PROBE_FAILED": _Reason(ReplicaError, "UNAVAILABLE", 502, _SEE_LOGS),
    "NO_NODE_AVAILABLE": _Reason(BusyError, "UNAVAILABLE", 503),
    "REPLICA_STOPPED": _Reason(ReplicaError, "UNAVAILABLE", 502),
    "MOCK_PROCESS_ENDED": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424),
    "REPLICA_REFUSED": _Reason(
        ReplicaError,
        "ABORTED",
        502,
        "Mend the request, or the service. client.inferencesessions.logs(ID) has what it wrote.",
    ),
    "REPLICA_UNREACHABLE": _Reason(ReplicaError, "UNAVAILABLE", 502, _LATER),
    "REPLICA_CONNECTION_LOST": _Reason(
        ReplicaError,
        "UNAVAILABLE",
        502,
        "The call may have run. Send it again where that does no harm.",
    ),
    "REPLICA_BAD_ANSWER": _Reason(ReplicaError, "ABORTED", 502, _SEE_LOGS),
    "DEADLINE_EXCEEDED": _Reason(
        LateError, "DEADLINE_EXCEEDED", 504, "Allow more time with timeout=SECONDS."
    ),
    "QUEUE_FULL": _Reason(
        OverloadedError, "RESOURCE_EXHAUSTED", 429, "Send fewer calls at once, or add replicas."
    ),
    "CANCELLED": _Reason(CancelledCallError, "CANCELLED", 499),
    "ROUTER_DRAINING": _Reason(BusyError, "UNAVAILABLE", 503, _LATER),
    "ROUTER_NOT_SYNCED": _Reason(BusyError, "UNAVAILABLE", 503, _LATER),
    "DUPLICATE_CALL_ID": _Reason(InternalError, "INVALID_ARGUMENT", 409),
    "ACCOUNT_LIMIT": _Reason(
        OverloadedError, "RESOURCE_EXHAUSTED", 429, "Have fewer calls under way at once."
    ),
    "REPLICA_FAILING": _Reason(ReplicaError, "UNAVAILABLE", 502, _SEE_LOGS),
    "ROUTER_OUT_OF_FILES": _Reason(BusyError, "UNAVAILABLE", 503, _LATER),
    "ADAPTER_FAILED": _Reason(
        InvalidRequestError,
        "INVALID_ARGUMENT",
        422,
        "Mend the item, or the pipeline of the service's interface.",
    ),
    "CONNECTION_LOST": _Reason(
        ConnectionLostError,
        "UNAVAILABLE",
        503,
        "The call may have run. Send it again where that does no harm.",
    ),
    "SERVICE_UNREACHABLE": _Reason(
        UnreachableError,
        "UNAVAILABLE",
        503,
        "Is `podbay up` running, and is the address right (PODBAY_API_ENDPOINT)?",
    ),
    "DEPENDENCY_UNAVAILABLE": _Reason(BusyError, "UNAVAILABLE", 503, _LATER),
    "STORE_UNAVAILABLE": _Reason(BusyError, "UNAVAILABLE", 503, _LATER),
    "SERVICE_STOPPING": _Reason(BusyError, "UNAVAILABLE", 503, _LATER),
    "INTERNAL": _Reason(InternalError, "INTERNAL", 500),
    "IMAGE_NOT_FOUND": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424),
    "IMAGE_DIGEST_NOT_FOUND": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424),
    "REGISTRY_UNREACHABLE": _Reason(SessionFailedError, "UNAVAILABLE", 503),
    "IMAGE_PULL_DENIED": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424),
    "OUT_OF_MEMORY": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424, _SEE_LOGS),
    "DISK_FULL": _Reason(SessionFailedError, "UNAVAILABLE", 503),
    "GPU_UNAVAILABLE": _Reason(SessionFailedError, "UNAVAILABLE", 503),
    "DATA_UNAVAILABLE": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424),
    "MODEL_NOT_READY": _Reason(
        ConflictError, "FAILED_PRECONDITION", 409, "client.models.logs(ID) tells how far it came."
    ),
    "MODEL_NOT_UPLOADABLE": _Reason(ConflictError, "FAILED_PRECONDITION", 409),
    "MODEL_FILE_NOT_FOUND": _Reason(NotFoundError, "NOT_FOUND", 404),
    "MODEL_FILES_MISSING": _Reason(
        ConflictError,
        "FAILED_PRECONDITION",
        409,
        "client.models.upload_volume(model, DIRECTORY) sends what is missing.",
    ),
    "MODEL_FILE_DAMAGED": _Reason(ModelDataError, "DATA_LOSS", 500),
    "DIGEST_MISMATCH": _Reason(ConflictError, "FAILED_PRECONDITION", 409),
    "UPLOAD_OFFSET_MISMATCH": _Reason(ConflictError, "OUT_OF_RANGE", 409),
    "TRANSFER_INTERRUPTED": _Reason(
        BusyError, "ABORTED", 503, "What came is kept: upload again to go on."
    ),
    "STORAGE_FULL": _Reason(ConflictError, "RESOURCE_EXHAUSTED", 507),
    "MODEL_FILES_ELSEWHERE": _Reason(ConflictError, "FAILED_PRECONDITION", 409),
    "INSUFFICIENT_CAPACITY": _Reason(BusyError, "UNAVAILABLE", 503, _SEE_EXPLAIN),
    "NO_SUCH_GPU_TYPE": _Reason(BusyError, "UNAVAILABLE", 503, _SEE_EXPLAIN),
    "NODE_LOST": _Reason(ReplicaError, "UNAVAILABLE", 502),
    "GPU_FAILED": _Reason(ReplicaError, "UNAVAILABLE", 502),
    "CRASH_LOOP": _Reason(ReplicaError, "UNAVAILABLE", 502, _SEE_LOGS),
    "NODE_IN_USE": _Reason(ConflictError, "FAILED_PRECONDITION", 409),
    "NODE_NOT_DECLARED": _Reason(ConflictError, "FAILED_PRECONDITION", 409),
    "PORT_NOT_OPENED": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424, _SEE_LOGS),
    "FETCH_FAILED": _Reason(SessionFailedError, "FAILED_PRECONDITION", 424),
    "TOO_MANY_SIGNING_KEYS": _Reason(ConflictError, "FAILED_PRECONDITION", 409),
    "TLS_CERTIFICATE_REJECTED": _Reason(SecureConnectionError, "UNAVAILABLE", 503),
    "TLS_MISMATCH": _Reason(SecureConnectionError, "UNAVAILABLE", 503),
    "TLS_CLIENT_CERTIFICATE_REFUSED": _Reason(SecureConnectionError, "UNAVAILABLE", 503),
    "PLAIN_TEXT_REFUSED": _Reason(SecureConnectionError, "FAILED_PRECONDITION", 400),
    "SERVICE_IDENTITY_DENIED": _Reason(PermissionDeniedError, "PERMISSION_DENIED", 403),
    "QUOTA_LIMIT": _Reason(BusyError, "UNAVAILABLE", 503, _SEE_EXPLAIN),
    "ACCOUNT_STORAGE_FULL": _Reason(
        ConflictError, "RESOURCE_EXHAUSTED", 507, "podbay account quota show ACCOUNT tells both."
    ),
    "NOT_LEADER": _Reason(BusyError, "UNAVAILABLE", 503, _LATER),
}
"""The catalogue: each reason with its error class, gRPC code, HTTP status and hint."""

_KINDS_BY_CODE: Final[Mapping[str, type[PodbayError]]] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    "OUT_OF_RANGE": InvalidRequestError,
    "UNAUTHENTICATED": AuthenticationError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "NOT_FOUND": NotFoundError,
    "UNIMPLEMENTED": NotFoundError,
    "ALREADY_EXISTS": ConflictError,
    "FAILED_PRECONDITION": ConflictError,
    "ABORTED": ConflictError,
    "RESOURCE_EXHAUSTED": OverloadedError,
    "DEADLINE_EXCEEDED": LateError,
    "CANCELLED": CancelledCallError,
    "UNAVAILABLE": BusyError,
    "DATA_LOSS": ModelDataError,
}


def error_for(reason: str, message: str, **facts: Any) -> PodbayError:
    """Return the error of a reason.

    Args:
        reason: Out of the catalogue. A reason of a newer service that is not in `REASONS` is kept,
            and the class follows from `code`.
        message: Why, for people.
        **facts: The further keywords of `PodbayError`.
    """
    known = REASONS.get(reason)
    if known is not None:
        kind = known.kind
    else:
        kind = _KINDS_BY_CODE.get(str(facts.get("code")), InternalError)
    return kind(message, reason=reason, **facts)
