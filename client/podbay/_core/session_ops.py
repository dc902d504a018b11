"""What only sessions have: status, tokens, logs, and the wait until one takes calls."""

from __future__ import annotations

from datetime import datetime

from podbay._core.arguments import text
from podbay._core.operations import Operation, Service, StreamOperation
from podbay._core.resource_ops import read
from podbay._core.times import optional_time
from podbay._core.wire_errors import reason_name
from podbay.errors import NoAnswerError, PodbayError, error_for
from podbay.schema import convert, platform, requests
from podbay.types import CallFailure, ReplicaStatus, RevokedTokens, SessionStatus
from podbay.v1 import inference_session_pb2
from podbay.v1 import session_manager_service_pb2 as sessions

__all__ = [
    "create_token",
    "ended_unexplained",
    "get_status",
    "not_ready_in_time",
    "revoke_tokens",
    "terminate",
    "verdict",
    "watch_status",
]

_EXPIRED_REASONS = frozenset({"SessionExpired", "Expired"})


def terminate(session_id: str) -> Operation[platform.Status]:
    """End a session."""
    return Operation(
        service=Service.SESSION_MANAGER,
        method="TerminateInferenceSession",
        what="terminate the inference session",
        request=sessions.TerminateInferenceSessionRequest(id=text(session_id, "session_id")),
        response=sessions.TerminateInferenceSessionResponse,
        decode=lambda answer: convert.from_proto(answer.status),
    )


def create_token(session_id: str, expires: datetime | None) -> Operation[str]:
    """Ask for another token."""
    given = {} if expires is None else {"expires": expires}
    request = read(requests.InferenceSessionTokenCreateRequest, given, "The session token")
    return Operation(
        service=Service.SESSION_MANAGER,
        method="CreateSessionToken",
        what="create the session token",
        request=convert.token_request_to_proto(text(session_id, "session_id"), request),
        response=sessions.CreateSessionTokenResponse,
        decode=lambda answer: str(answer.token),
        safe=True,  # a token too many does no harm: it ends with the session
    )


def revoke_tokens(session_id: str) -> Operation[RevokedTokens]:
    """End all tokens of a session."""
    return Operation(
        service=Service.SESSION_MANAGER,
        method="RevokeSessionTokens",
        what="revoke the session's tokens",
        request=sessions.RevokeSessionTokensRequest(id=text(session_id, "session_id")),
        response=sessions.RevokeSessionTokensResponse,
        decode=lambda answer: RevokedTokens(answer.epoch, answer.acknowledged),
        safe=False,
    )


def get_status(session_id: str) -> Operation[SessionStatus]:
    """Ask whether a session takes calls."""
    return Operation(
        service=Service.SESSION_MANAGER,
        method="GetInferenceSessionStatus",
        what="get the session's status",
        request=sessions.GetInferenceSessionStatusRequest(id=text(session_id, "session_id")),
        response=sessions.GetInferenceSessionStatusResponse,
        decode=lambda answer: _status(answer.status),
    )


def watch_status(session_id: str) -> StreamOperation[SessionStatus]:
    """Ask for a session's status, and for every change."""
    return StreamOperation(
        service=Service.SESSION_MANAGER,
        method="WatchInferenceSessionStatus",
        what="watch the session's status",
        request=sessions.WatchInferenceSessionStatusRequest(id=text(session_id, "session_id")),
        response=sessions.WatchInferenceSessionStatusResponse,
        decode=lambda answer: [_status(answer.status)],
    )


def verdict(status: SessionStatus) -> PodbayError | None:
    """Return why a session will never take calls; None where it does, or still may."""
    if status.ready or not platform.is_status_terminal(status.status):
        return None
    failed = platform.is_status_failure(status.status)
    if failed:
        reason, what = "SESSION_FAILED", "failed"
    elif status.reason in _EXPIRED_REASONS:
        reason, what = "SESSION_EXPIRED", "has expired"
    else:
        reason, what = "SESSION_TERMINATED", "was terminated"
    why = status.explanation or status.message or status.reason or "nothing more is known"
    return error_for(
        reason,
        f"Session {status.session_id} {what}: {why}",
        metadata={"session": status.session_id} | (_evidence(status) if failed else {}),
        not_started=True,
    )


def not_ready_in_time(session_id: str, status: SessionStatus | None, timeout: float) -> PodbayError:
    """Return the error of a wait that took too long.

    Args:
        session_id: The session.
        status: What was last heard of it; None for nothing.
        timeout: How long was waited, in seconds.
    """
    head = f"Session {session_id} was not ready after {timeout:.3g} s"
    if status is None:
        return NoAnswerError(
            f"{head}; the session manager told nothing of it.", reason="DEADLINE_EXCEEDED"
        )
    counts = f"{status.ready_replicas} of {status.desired_replicas} replicas are ready"
    why = (status.explanation or status.message or "").rstrip(".")
    # The explanation of the session manager begins with the counts.
    if why.startswith(counts):
        counts, why = why, ""
    phases = ", ".join(f"replica {r.index}: {r.phase}" for r in status.replicas)
    return error_for(
        "DEADLINE_EXCEEDED",
        f"{head}: {counts}" + (f"; {why}" if why else "") + ".",
        metadata={"session": session_id, "status": status.status, "phases": phases}
        | _evidence(status),
    )


def ended_unexplained(session_id: str) -> PodbayError:
    """Return the error of a watch that ended although the session may still become ready."""
    return error_for(
        "SERVICE_STOPPING", f"The session manager stopped telling of session {session_id}."
    )


def _evidence(status: SessionStatus) -> dict[str, str]:
    """The evidence of the replica that failed last."""
    failed = [replica for replica in status.replicas if replica.reason is not None]
    if not failed:
        return {}
    last = max(failed, key=_changed)
    evidence = {"replica": last.id, "reason": last.reason or "", "why": last.message}
    if last.exit_code is not None:
        evidence["exitCode"] = str(last.exit_code)
    if last.log_tail:
        evidence["log"] = "\n".join(last.log_tail)
    return evidence


def _changed(replica: ReplicaStatus) -> float:
    return replica.transition_time.timestamp() if replica.transition_time is not None else 0.0


def _status(status: inference_session_pb2.InferenceSessionStatus) -> SessionStatus:
    inner = status.status
    return SessionStatus(
        session_id=status.session_id,
        status=inner.status,
        reason=inner.reason if inner.HasField("reason") else None,
        message=inner.message if inner.HasField("message") else None,
        ready=status.ready,
        ready_replicas=status.ready_replicas,
        desired_replicas=status.desired_replicas,
        replicas=tuple(_replica(replica) for replica in status.replicas),
        explanation=status.explanation,
        revision=status.revision,
        call_failures=tuple(_call_failure(failure) for failure in status.call_failures),
    )


def _call_failure(failure: inference_session_pb2.CallFailure) -> CallFailure:
    return CallFailure(
        reason=reason_name(failure.reason),
        count=failure.count,
        first_time=optional_time(failure, "first_time"),
        last_time=optional_time(failure, "last_time"),
        message=failure.message,
        metadata=dict(failure.metadata),
    )


def _replica(replica: inference_session_pb2.Replica) -> ReplicaStatus:
    phase = inference_session_pb2.ReplicaPhase.Name(replica.phase)
    return ReplicaStatus(
        id=replica.id,
        index=replica.index,
        attempt=replica.attempt,
        phase=phase.removeprefix("REPLICA_PHASE_").capitalize(),
        reason=reason_name(replica.reason) if replica.reason else None,
        message=replica.message,
        node=replica.node,
        driver=replica.driver,
        exit_code=replica.exit_code if replica.HasField("exit_code") else None,
        log_tail=tuple(replica.log_tail),
        address=replica.address,
        process_id=replica.process_id if replica.HasField("process_id") else None,
        creation_time=optional_time(replica, "creation_time"),
        transition_time=optional_time(replica, "transition_time"),
        ready_time=optional_time(replica, "ready_time"),
        retry_time=optional_time(replica, "retry_time"),
        gpus=tuple(replica.gpus),
        failures=replica.failures,
        out_of_memory=replica.out_of_memory,
    )
