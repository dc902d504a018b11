"""Whom the router believes."""

import time
from typing import Any

import jwt
import pytest

from podbay.v1 import errors_pb2
from podbay_inference_router.requests import RequestError
from podbay_inference_router.tokens import TokenVerifier
from tests.support.router_fakes import SigningKey

KEY = SigningKey()
NOW = time.time()


@pytest.fixture
def verifier() -> TokenVerifier:
    made = TokenVerifier()
    made.set_keys({KEY.kid: KEY.public})
    return made


def reason(verifier: TokenVerifier, token: str, now: float = NOW) -> int:
    with pytest.raises(RequestError) as caught:
        verifier.verify(token, now)
    assert not token or token not in caught.value.failure.message
    return caught.value.failure.reason


def test_a_good_token_tells_its_claims(verifier: TokenVerifier) -> None:
    claims = verifier.verify(KEY.token("s", epoch=7, exp=int(NOW) + 60), NOW)
    assert claims == ("s", "acct", 7, float(int(NOW) + 60))


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "sid", "epoch", "iat", "exp", "jti"])
def test_every_claim_is_needed(verifier: TokenVerifier, claim: str) -> None:
    token = KEY.token("s", **{claim: None})
    assert reason(verifier, token) == errors_pb2.ERROR_REASON_TOKEN_INVALID


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "someone-else"},
        {"sid": ""},
        {"epoch": "1"},
        {"epoch": True},
        {"exp": "tomorrow"},
    ],
)
def test_a_wrong_claim_is_refused(verifier: TokenVerifier, changes: dict[str, Any]) -> None:
    token = KEY.token("s", **changes)
    assert reason(verifier, token) == errors_pb2.ERROR_REASON_TOKEN_INVALID


def test_other_algorithms_and_keys_are_refused(verifier: TokenVerifier) -> None:
    other = SigningKey(KEY.kid)
    unknown = SigningKey("another")
    claims = jwt.decode(KEY.token("s"), options={"verify_signature": False})
    tokens = [
        other.token("s"),
        unknown.token("s"),
        jwt.encode(claims, "x" * 40, algorithm="HS256", headers={"kid": KEY.kid}),
        jwt.encode(claims, None, algorithm="none", headers={"kid": KEY.kid}),
        jwt.encode(claims, "x" * 40, algorithm="HS256"),
        "abc",
        "a.b.c",
        "",
        "x" * 9000,
        KEY.token("s")[:-4] + "AAAA",
    ]
    for token in tokens:
        assert reason(verifier, token) == errors_pb2.ERROR_REASON_TOKEN_INVALID


def test_an_expired_token_is_refused_also_when_it_was_good_before(verifier: TokenVerifier) -> None:
    token = KEY.token("s", exp=int(NOW) + 10)
    verifier.verify(token, NOW)
    assert reason(verifier, token, NOW + 10) == errors_pb2.ERROR_REASON_TOKEN_EXPIRED
    assert reason(verifier, token, NOW + 11) == errors_pb2.ERROR_REASON_TOKEN_EXPIRED


def test_new_keys_forget_what_the_old_ones_signed(verifier: TokenVerifier) -> None:
    token = KEY.token("s")
    verifier.verify(token, NOW)
    verifier.set_keys({"other": SigningKey("other").public})
    assert reason(verifier, token) == errors_pb2.ERROR_REASON_TOKEN_INVALID


def test_a_key_of_another_length_verifies_nothing() -> None:
    verifier = TokenVerifier()
    verifier.set_keys({KEY.kid: b"short"})
    assert reason(verifier, KEY.token("s")) == errors_pb2.ERROR_REASON_TOKEN_INVALID


def test_a_token_is_verified_once(verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    token = KEY.token("s")
    first = verifier.verify(token, NOW)
    monkeypatch.setattr(jwt, "decode", None)
    assert verifier.verify(token, NOW) is first
