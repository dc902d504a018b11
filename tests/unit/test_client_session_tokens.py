"""A token of another session is refused before it calls that session."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from podbay import Client
from podbay._core.session_tokens import check_session
from podbay.errors import PermissionDeniedError


def token(claims: Any) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{payload}.c2ln"


def test_a_token_of_another_session_is_refused() -> None:
    check_session("mine", token({"sid": "mine"}))
    with pytest.raises(PermissionDeniedError, match="other") as caught:
        check_session("mine", token({"sid": "other"}))
    assert caught.value.reason == "TOKEN_FOR_OTHER_SESSION"
    with Client("h:1", "t") as client, pytest.raises(PermissionDeniedError):
        client.inferencesessions.client("mine", token({"sid": "other"}), endpoint="e")


@pytest.mark.parametrize(
    "text", ["", "a", "a.b.c", "a.!!!.c", token([1]), token({}), token({"sid": 3}), "é.é.é"]
)
def test_what_cannot_be_read_is_left_to_the_router(text: str) -> None:
    check_session("mine", text)
