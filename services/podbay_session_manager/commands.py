"""What people command, as pure steps of a session."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from podbay_kit.errors import ServiceError
from podbay_session_manager.machine import ReplicaPhase, SessionState
from podbay_session_manager.records import Reason, ReplicaRecord, SessionRecord
from podbay_session_manager.routes import reason_number

__all__ = ["check_open", "delete", "lose_for_good", "revoke_tokens", "terminate"]

_TERMINATED: Final = "The session was terminated by command. Create a new one to go on."
_LOST: Final = "Its node was withdrawn as lost, with all that ran on it."
_DELETED: Final = "The session was deleted. Create a new one to go on."


def terminate(session: SessionRecord, now: float) -> SessionRecord:
    """Return the session as one that shall end; one that ends already stays as it is."""
    if session.state is not SessionState.ACTIVE:
        return session
    return session.ending(
        now,
        ended_reason=Reason.SESSION_TERMINATED,
        status="Terminated",
        status_reason="TerminateCommand",
        message=_TERMINATED,
    )


def delete(session: SessionRecord, now: float) -> SessionRecord:
    """Return the session as a deleted one, which ends if it has not."""
    if session.status == "Deleted":
        return session
    if session.state is SessionState.ACTIVE:
        return session.ending(
            now,
            ended_reason=Reason.SESSION_TERMINATED,
            status="Deleted",
            status_reason="DeleteCommand",
            message=_DELETED,
        )
    return replace(
        session, status="Deleted", status_reason="DeleteCommand", status_message=_DELETED
    )


def revoke_tokens(session: SessionRecord, _now: float) -> SessionRecord:
    """Return the session with a new epoch, which ends all tokens that were made so far."""
    return replace(session, epoch=session.epoch + 1)


def lose_for_good(replica: ReplicaRecord, now: float) -> ReplicaRecord:
    """Return a replica as one that is gone with its machine, as people say."""
    if replica.phase.ended:
        return replace(replica, removed=True)
    as_it_should = replica.phase is ReplicaPhase.DRAINING
    phase = ReplicaPhase.STOPPED if as_it_should else ReplicaPhase.FAILED
    lost = replica.moved(phase, now, reason=Reason.NODE_LOST, message=_LOST)
    return replace(lost, removed=True)


def check_open(session: SessionRecord) -> None:
    """Let a session pass that takes calls now or later.

    Raises:
        ServiceError: SESSION_TERMINATED, SESSION_EXPIRED or SESSION_FAILED, with the evidence.
    """
    if session.ended_reason is not Reason.NONE:
        raise ServiceError(
            reason_number(session.ended_reason),
            f"The session has ended. {session.status_message or ''}".strip(),
            metadata={"session": session.id, **session.evidence},
        )
