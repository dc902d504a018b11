"""The keys of session tokens: what is asked, and what comes back."""

from __future__ import annotations

from collections.abc import Iterable

from podbay._core.operations import Operation, Service
from podbay._core.times import optional_time
from podbay.types import SigningKeyInfo
from podbay.v1 import session_manager_service_pb2 as sessions

__all__ = ["list_keys", "rotate_keys"]


def list_keys() -> Operation[list[SigningKeyInfo]]:
    """Ask for the keys."""
    return Operation(
        service=Service.SESSION_MANAGER,
        method="ListSigningKeys",
        what="list the signing keys",
        request=sessions.ListSigningKeysRequest(),
        response=sessions.ListSigningKeysResponse,
        decode=lambda answer: _keys(answer.keys),
    )


def rotate_keys() -> Operation[list[SigningKeyInfo]]:
    """Make a new key, and sign by it."""
    return Operation(
        service=Service.SESSION_MANAGER,
        method="RotateSigningKeys",
        what="rotate the signing keys",
        request=sessions.RotateSigningKeysRequest(),
        response=sessions.RotateSigningKeysResponse,
        decode=lambda answer: _keys(answer.keys),
        safe=False,
    )


def _keys(keys: Iterable[sessions.SigningKey]) -> list[SigningKeyInfo]:
    return [
        SigningKeyInfo(
            kid=key.kid,
            creation_time=optional_time(key, "creation_time"),
            signing=key.signing,
            verifies_until=optional_time(key, "verifies_until"),
        )
        for key in keys
    ]
