"""What a client can tell of a session token without the key that verifies it."""

from __future__ import annotations

import base64
import json
from typing import Any

from podbay._core.wire_errors import invalid
from podbay.errors import error_for

__all__ = ["check_session", "inspect_unverified"]


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
            f"The token is of session {named}, and the client is for session {session_id}. Each "
            "session has tokens of its own.",
            metadata={"session": session_id},
            not_started=True,
        )


def inspect_unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header and the claims of a session token, without verifying them.

    Raises:
        InvalidRequestError: It is no token of three parts, as an API token, which holds no claims.
    """
    found = _read(token)
    if found is None:
        raise invalid(
            "token",
            "is not a session token of three readable parts (an API token holds no claims: "
            "client.tokens.list() tells what it may do)",
            "The token",
        )
    return found


def _session_of(token: str) -> str | None:
    """Return the claim that names the session; None where there is none to be read."""
    found = _read(token)
    named = found[1].get("sid") if found is not None else None
    return named if isinstance(named, str) else None


def _read(token: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        header, claims = (
            json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
            for part in parts[:2]
        )
    except (ValueError, RecursionError):
        return None
    return (header, claims) if isinstance(header, dict) and isinstance(claims, dict) else None
