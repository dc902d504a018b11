"""How each failure of a call is told: reason, evidence, way out. Pure.

A failure is a `CallError`: the message of an Exchange stream, and the same facts that the status of
a unary call carries.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from podbay.v1 import errors_pb2
from podbay.v1.errors_pb2 import CallError, FieldViolation
from podbay_kit.errors import CODES

__all__ = [
    "account_limit",
    "bad_answer",
    "body_too_large",
    "cancelled",
    "connection_lost",
    "crowded_out",
    "deadline_exceeded",
    "draining",
    "duplicate_id",
    "failure",
    "internal",
    "invalid",
    "not_synced",
    "out_of_files",
    "queue_full",
    "queue_timeout",
    "session_ended",
    "session_not_found",
    "session_not_ready",
    "stopped",
    "token_expired",
    "token_for_other_session",
    "token_invalid",
    "token_revoked",
    "too_late",
    "unreachable",
]

_ID: Final = re.compile(r"[A-Za-z0-9]{1,64}")
_NEW_SESSION: Final = "Create a new session"
_NEW_SESSION_WAYS: Final = ("create a new session", "create a new one")
_ENDED_WORDS: Final[Mapping[int, str]] = {
    errors_pb2.ERROR_REASON_SESSION_TERMINATED: "was terminated",
    errors_pb2.ERROR_REASON_SESSION_EXPIRED: "has expired",
    errors_pb2.ERROR_REASON_SESSION_FAILED: "has failed",
}


def failure(
    reason: errors_pb2.ErrorReason.ValueType,
    message: str,
    *,
    code: int | None = None,
    metadata: Mapping[str, str] | None = None,
    retry_after: float | None = None,
    violations: Sequence[tuple[str, str]] = (),
    not_started: bool = False,
) -> CallError:
    """Build a failure.

    Args:
        reason: Why, for programs.
        message: Why, for people.
        code: The google.rpc.Code; that of the reason unless said.
        metadata: The evidence.
        retry_after: Seconds after which another try may help; None where it does not.
        violations: Paths and descriptions of broken rules.
        not_started: True where no replica has seen the call.

    Returns:
        The failure.
    """
    error = CallError(
        code=CODES[reason].value[0] if code is None else code,
        reason=reason,
        message=message,
        metadata=metadata,
        violations=[FieldViolation(field=path, description=text) for path, text in violations],
        not_started=not_started,
    )
    if retry_after is not None:
        seconds, rest = divmod(max(0.0, retry_after), 1)
        error.retry_delay.seconds = int(seconds)
        error.retry_delay.nanos = int(rest * 1e9)
    return error


def invalid(path: str, description: str) -> CallError:
    """Tell that the field at `path` breaks a rule."""
    return failure(
        errors_pb2.ERROR_REASON_INVALID_REQUEST,
        f"{path}: {description}",
        violations=[(path, description)],
        not_started=True,
    )


def body_too_large(size: int, limit: int) -> CallError:
    """Tell that a request's body of `size` bytes is over the limit."""
    return failure(
        errors_pb2.ERROR_REASON_BODY_TOO_LARGE,
        f"The body has {size} bytes, and the router takes {limit}. Send less at once, or start the "
        "router with a larger --max-body-bytes.",
        metadata={"size": str(size), "limit": str(limit)},
        violations=[("body", f"larger than {limit} bytes")],
        not_started=True,
    )


def token_invalid(why: str) -> CallError:
    """Tell that a session token cannot be trusted."""
    return failure(
        errors_pb2.ERROR_REASON_TOKEN_INVALID,
        f"The session token is not valid: {why}. Ask for a new one with CreateSessionToken.",
        not_started=True,
    )


def token_expired() -> CallError:
    """Tell that a session token has ended."""
    return failure(
        errors_pb2.ERROR_REASON_TOKEN_EXPIRED,
        "The session token has expired. Ask for a new one with CreateSessionToken.",
        not_started=True,
    )


def token_revoked(session_id: str) -> CallError:
    """Tell that a session token is of an earlier epoch."""
    return failure(
        errors_pb2.ERROR_REASON_TOKEN_REVOKED,
        f"The tokens of session {session_id} were revoked, this one among them. Ask for a new one "
        "with CreateSessionToken.",
        metadata={"session": session_id},
        not_started=True,
    )


def token_for_other_session(session_id: str) -> CallError:
    """Tell that a session token is for another session than the one that was called."""
    return failure(
        errors_pb2.ERROR_REASON_TOKEN_FOR_OTHER_SESSION,
        f"The token is for another session than {_shown(session_id)}. Each session has tokens of "
        "its own.",
        metadata={"session": _shown(session_id)},
        not_started=True,
    )


def session_not_found(session_id: str) -> CallError:
    """Tell that the router knows no such session."""
    return failure(
        errors_pb2.ERROR_REASON_INFERENCE_SESSION_NOT_FOUND,
        f"There is no session {_shown(session_id)}: it never was here, or it ended long ago.",
        metadata={"session": _shown(session_id)},
        not_started=True,
    )


def session_not_ready(session_id: str, message: str, evidence: Mapping[str, str]) -> CallError:
    """Tell that a session has no ready replica, with what the session manager knows of it."""
    why = message or "its replicas are starting"
    return failure(
        errors_pb2.ERROR_REASON_SESSION_NOT_READY,
        f"Session {session_id} has no ready replica: {why.rstrip('.')}. Try again, or follow its "
        "status.",
        metadata={**evidence, "session": session_id},
        retry_after=1.0,
        not_started=True,
    )


def session_ended(
    session_id: str,
    reason: errors_pb2.ErrorReason.ValueType,
    message: str,
    evidence: Mapping[str, str],
    *,
    not_started: bool = True,
) -> CallError:
    """Tell that a session has ended, and why."""
    if reason not in _ENDED_WORDS:
        reason = errors_pb2.ERROR_REASON_SESSION_TERMINATED
    text = f"Session {session_id} {_ENDED_WORDS[reason]}"
    if message:
        text += f": {message.rstrip('.')}"
    # The session manager's own words may tell the way out already.
    if not any(way in text.lower() for way in _NEW_SESSION_WAYS):
        text += f". {_NEW_SESSION}"
    return failure(
        reason,
        f"{text}.",
        metadata={**evidence, "session": session_id},
        not_started=not_started,
    )


def queue_full(session_id: str, length: int, delay: float) -> CallError:
    """Tell that `length` calls of a session wait already, which is all that may."""
    return failure(
        errors_pb2.ERROR_REASON_QUEUE_FULL,
        f"All replicas of session {session_id} are at their limit, and {length} calls wait, which "
        f"is all that may; come back in {delay:.3g} s. Send fewer calls at once, or run more "
        "replicas.",
        metadata={"session": session_id, "waiting": str(length)},
        retry_after=delay,
        not_started=True,
    )


def crowded_out(session_id: str, account: str, length: int, delay: float) -> CallError:
    """Tell that a call gave up its place in a full queue to one of another account."""
    return failure(
        errors_pb2.ERROR_REASON_QUEUE_FULL,
        f"The queue of session {session_id} is full with {length} calls, most of them account "
        f"{account}'s, and another account's call took the place of this one; come back in "
        f"{delay:.3g} s. Send fewer calls at once, or run more replicas.",
        metadata={"session": session_id, "account": account, "waiting": str(length)},
        retry_after=delay,
        not_started=True,
    )


def queue_timeout(session_id: str, seconds: float, length: int, delay: float) -> CallError:
    """Tell that a call waited as long as it may for a busy replica."""
    return failure(
        errors_pb2.ERROR_REASON_QUEUE_FULL,
        f"All replicas of session {session_id} were at their limit for the {seconds:.3g} s that a "
        f"call may wait; {length} calls wait. Send fewer calls at once, or run more replicas.",
        metadata={"session": session_id, "waiting": str(length)},
        retry_after=delay,
        not_started=True,
    )


def account_limit(
    account: str, *, running: int, waiting: int, limit: int | None, delay: float
) -> CallError:
    """Tell that an account has as many calls under way as it may, over all its sessions.

    Args:
        account: The account.
        running: How many of its calls run at this worker.
        waiting: How many wait there.
        limit: How many may run at all workers together, as its quota says; None for no such limit.
        delay: Seconds after which to come back.
    """
    metadata = {"account": account, "running": str(running), "waiting": str(waiting)}
    quota = ""
    if limit is not None:
        metadata["limit"] = str(limit)
        quota = f" Its quota lets {limit} run at once (podbay account quota show {account})."
    return failure(
        errors_pb2.ERROR_REASON_ACCOUNT_LIMIT,
        f"Account {account} has {running} calls running and {waiting} waiting over all its "
        f"sessions, which is all that it may; come back in {delay:.3g} s.{quota}",
        metadata=metadata,
        retry_after=delay,
        not_started=True,
    )


def too_late(session_id: str, expected: float, left: float, length: int) -> CallError:
    """Tell that a call was refused at once, as its turn would come after its deadline."""
    return failure(
        errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED,
        f"{length} calls of session {session_id} wait, which takes about {expected:.3g} s as "
        f"measured, and the call allows {left:.3g} s. Allow more time, or run more replicas.",
        metadata={
            "session": session_id,
            "waiting": str(length),
            "expectedWait": f"{expected:.3f}",
        },
        retry_after=expected,
        not_started=True,
    )


def deadline_exceeded(session_id: str, replica_id: str, *, waiting: bool) -> CallError:
    """Tell that a call's time ran out, in the queue or at a replica."""
    if waiting:
        text = f"The call's time ran out while it waited for a replica of session {session_id}."
    else:
        text = (
            f"The call's time ran out while replica {replica_id} worked on it; the replica was "
            "told to stop."
        )
    metadata = {"session": session_id}
    if replica_id:
        metadata["replica"] = replica_id
    return failure(
        errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED,
        f"{text} Allow more time.",
        metadata=metadata,
        not_started=waiting,
    )


def cancelled(*, not_started: bool) -> CallError:
    """Tell that the caller cancelled."""
    return failure(
        errors_pb2.ERROR_REASON_CANCELLED, "The call was cancelled.", not_started=not_started
    )


def draining() -> CallError:
    """Tell that the router is about to stop."""
    return failure(
        errors_pb2.ERROR_REASON_ROUTER_DRAINING,
        "The router is about to stop and has not begun the call. Send it again on a new stream.",
        retry_after=0.1,
        not_started=True,
    )


def stopped() -> CallError:
    """Tell that the router stopped before a call's answer was complete."""
    return failure(
        errors_pb2.ERROR_REASON_ROUTER_DRAINING,
        "The router stopped before the answer was complete. The replica may have worked on the "
        "call: send it again only if that is safe.",
    )


def not_synced(why: str) -> CallError:
    """Tell that the router has not heard from the session manager since it started.

    Args:
        why: Why not, in a few words; empty where that is not known.

    Returns:
        The failure.
    """
    known = f" ({why})" if why else ""
    return failure(
        errors_pb2.ERROR_REASON_ROUTER_NOT_SYNCED,
        f"The router has not reached the session manager since it started{known}, so it knows no "
        "session. Try again; if this goes on, look whether the session manager runs.",
        retry_after=0.5,
        not_started=True,
    )


def unreachable(session_id: str, replica_id: str, detail: str) -> CallError:
    """Tell that no replica could be connected to."""
    return failure(
        errors_pb2.ERROR_REASON_REPLICA_UNREACHABLE,
        f"No replica of session {session_id} could be reached; of {replica_id}, {detail}. No "
        "replica has seen the call.",
        metadata={"session": session_id, "replica": replica_id, "detail": detail},
        retry_after=1.0,
        not_started=True,
    )


def out_of_files(session_id: str, limit: int | None) -> CallError:
    """Tell that no connection could be made, as the router may open no more files.

    Args:
        session_id: The session.
        limit: The most files that the router may have open; None where it is the machine that has
            no more.

    Returns:
        The failure.
    """
    metadata = {"session": session_id}
    if limit is None:
        why = "The machine of the router can open no more files"
        way_out = "raises its fs.file-max"
    else:
        why = f"The router has all {limit} files open that it may"
        way_out = "lets the router have more (ulimit -n, or LimitNOFILE= of its unit)"
        metadata["limit"] = str(limit)
    return failure(
        errors_pb2.ERROR_REASON_ROUTER_OUT_OF_FILES,
        f"{why}, so that no connection to a replica of session {session_id} can be made. No "
        "replica has seen the call, and none is to blame. Send it again, with fewer "
        f"calls at once, until the operator {way_out}.",
        metadata=metadata,
        retry_after=1.0,
        not_started=True,
    )


def connection_lost(session_id: str, replica_id: str, *, answering: bool) -> CallError:
    """Tell that a replica closed the connection before its answer was complete."""
    when = "in the middle of its answer" if answering else "before it answered"
    return failure(
        errors_pb2.ERROR_REASON_REPLICA_CONNECTION_LOST,
        f"The connection to replica {replica_id} was lost {when}. It may have worked on the call: "
        "send it again only if that is safe. The session's logs may tell why.",
        metadata={"session": session_id, "replica": replica_id},
    )


def bad_answer(session_id: str, replica_id: str, detail: str) -> CallError:
    """Tell that a replica's answer cannot be passed on."""
    return failure(
        errors_pb2.ERROR_REASON_REPLICA_BAD_ANSWER,
        f"The answer of replica {replica_id} cannot be used: {detail}. Mend the service; what the "
        f"replica wrote may tell why: podbay logs {session_id}.",
        metadata={"session": session_id, "replica": replica_id, "detail": detail},
    )


def duplicate_id(call_id: int) -> CallError:
    """Tell that a call's id is in use on its stream."""
    return failure(
        errors_pb2.ERROR_REASON_DUPLICATE_CALL_ID,
        f"The id {call_id} belongs to a call of this stream that is not answered yet.",
        metadata={"id": str(call_id)},
        not_started=True,
    )


def internal(incident: str) -> CallError:
    """Tell of a defect in the router, logged under `incident`."""
    return failure(
        errors_pb2.ERROR_REASON_INTERNAL,
        f"A defect in the router, logged as incident {incident}. Please report it.",
        metadata={"incident": incident},
    )


def _shown(session_id: str) -> str:
    """Return what a caller says is a session; what has not the form of an id may be a token."""
    return session_id if _ID.fullmatch(session_id) else "(withheld: no id)"
