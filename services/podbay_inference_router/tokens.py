"""Session tokens, verified with the keys at hand. No call to anybody, no clock of its own.

What reads web tokens takes as long to import as a third of all else that a worker needs: a worker
that starts has it come while its clients are on their way back (`prepare`).
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from podbay_inference_router import failures
from podbay_inference_router.requests import RequestError

__all__ = ["AUDIENCE", "Claims", "ExpiredTokenError", "TokenVerifier", "prepare"]

AUDIENCE: Final = "podbay-inference-router"

_ALGORITHMS: Final = ["EdDSA"]
_REQUIRED: Final = ["iss", "aud", "sub", "sid", "epoch", "iat", "exp", "jti"]
_MAX_TOKEN: Final = 8192
_MAX_CACHED: Final = 4096


class Claims(NamedTuple):
    """What a verified token says."""

    session_id: str
    account: str
    epoch: int
    expires: float
    """Seconds since 1970."""


class ExpiredTokenError(RequestError):
    """A token has ended; its signature is good, so that what it says of its session holds.

    Attributes:
        session_id: The session that it was for.
    """

    def __init__(self, session_id: str) -> None:
        super().__init__(failures.token_expired())
        self.session_id = session_id


def prepare() -> None:
    """Import what the first token needs; in any thread, and again without effect."""
    import jwt  # noqa: F401, PLC0415 # see above


class TokenVerifier:
    """Verifies tokens and remembers those that were good.

    A remembered token is compared with the clock each time, and the caller compares its epoch
    with the session's, so that neither expiry nor revocation is outlived. New keys forget all.
    """

    def __init__(self) -> None:
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._good: dict[str, Claims] = {}

    def set_keys(self, keys: Mapping[str, bytes]) -> None:
        """Trust these keys and no others.

        Args:
            keys: Raw Ed25519 public keys by key id. One of another length is left out: no token
                can be verified with it.
        """
        self._keys = {
            kid: Ed25519PublicKey.from_public_bytes(key)
            for kid, key in keys.items()
            if len(key) == 32
        }
        self._good.clear()

    def verify(self, token: str, now: float) -> Claims:
        """Verify a token.

        Args:
            token: The token.
            now: The time of day in seconds since 1970.

        Returns:
            What it says.

        Raises:
            RequestError: TOKEN_INVALID; or TOKEN_EXPIRED, as an `ExpiredTokenError`.
        """
        claims = self._good.get(token)
        if claims is None:
            claims = self._check(token)
            if claims.expires > now:
                if len(self._good) >= _MAX_CACHED:
                    del self._good[next(iter(self._good))]
                self._good[token] = claims
        if not claims.expires > now:  # also where it is not a number
            self._good.pop(token, None)
            raise ExpiredTokenError(claims.session_id)
        return claims

    def _check(self, token: str) -> Claims:
        import jwt  # noqa: PLC0415 # see above

        if len(token) > _MAX_TOKEN:
            raise _bad("it is too long")
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except jwt.InvalidTokenError as error:
            raise _bad("it is not a signed JSON web token") from error
        key = self._keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise _bad("no key of this installation has signed it")
        try:
            payload = jwt.decode(
                token,
                key,
                algorithms=_ALGORITHMS,
                audience=AUDIENCE,
                # Expiry is compared by the caller of this, who knows the time. Clocks of several
                # machines differ a little, so a token "from the future" is not refused for that.
                options={
                    "require": _REQUIRED,
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.InvalidAudienceError as error:
            raise _bad("it is meant for another service") from error
        except jwt.MissingRequiredClaimError as error:
            raise _bad("a claim is missing") from error
        except jwt.InvalidSignatureError as error:
            raise _bad("its signature does not verify") from error
        except jwt.InvalidTokenError as error:
            raise _bad("its algorithm or one of its claims is not as it should be") from error
        return _claims(payload)


def _claims(payload: Mapping[str, Any]) -> Claims:
    session_id, account = payload["sid"], payload["sub"]
    epoch, expires = payload["epoch"], payload["exp"]
    if not (
        isinstance(session_id, str)
        and session_id
        and isinstance(account, str)
        and type(epoch) is int
        and type(expires) in (int, float)
    ):
        raise _bad("a claim has another type than it should")
    return Claims(session_id, account, epoch, float(expires))


def _bad(why: str) -> RequestError:
    return RequestError(failures.token_invalid(why))
