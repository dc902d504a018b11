"""What people command, as pure steps of a session."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from podbay_kit.errors import ServiceError
from podbay_session_manager.machine import SessionState
from podbay_session_manager.records import Reason, SessionRecord
from podbay_session_manager.routes import reason_number

__all__ = ["check_open", "delete", "revoke_tokens", "terminate"]

_TERMINATED: Final = "The session was terminated by command. Create a new one to go on."
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
