"""What a client can tell of a session token without the key that verifies it."""

from __future__ import annotations

import base64
import json

from podbay.errors import error_for

__all__ = ["check_session"]


def check_session(session_id: str, token: str) -> None:
    """Refuse a token of another session.

    The token names the session of a stream, so that a mix-up would call the wrong session without
    a word. Whatever cannot be read here is left to the router, which verifies it.

    Raises:
        PermissionDeniedError: The token is of another session.
    """
    named = _session_of(token)
    if named is not None and named != session_id:
        raise error_for(
            "TOKEN_FOR_OTHER_SESSION",
            f"The token is of session {named}, and the client is for session {session_id}.",
            not_started=True,
        )


def _session_of(token: str) -> str | None:
    """Return the claim that names the session; None where there is none to be read."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    named = claims.get("sid") if isinstance(claims, dict) else None
    return named if isinstance(named, str) else None
