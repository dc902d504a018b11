"""Session tokens: JWTs for the calls of one session, verified by routers with the public key.

What writes web tokens takes long to import, and nothing that a start waits for needs it.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from podbay.v1 import session_manager_service_pb2 as manager_pb2
from podbay_kit.errors import invalid
from podbay_session_manager.key_plan import SigningKeyRow
from podbay_session_manager.records import SessionRecord

__all__ = ["AUDIENCE", "TokenSigner", "make_key"]

AUDIENCE: Final = "podbay-inference-router"
_DEFAULT_LIFE: Final = timedelta(hours=24)


def make_key(now: float) -> SigningKeyRow:
    """Make a key.

    Args:
        now: Seconds since 1970.
    """
    private = Ed25519PrivateKey.generate()
    raw = private.private_bytes_raw()
    return SigningKeyRow(kid=uuid.uuid4().hex, private_key=raw, created_at=now)


class TokenSigner:
    """Signs session tokens by one key.

    Args:
        issuer: The installation.
        keys: The key that signs, and then those that only verify.
    """

    def __init__(self, issuer: str, keys: Sequence[SigningKeyRow]) -> None:
        self._issuer = issuer
        private = [(key.kid, Ed25519PrivateKey.from_private_bytes(key.private_key)) for key in keys]
        self._kid, self._key = private[0]
        self._verification = tuple(
            manager_pb2.VerificationKey(
                kid=kid,
                ed25519_public_key=key.public_key().public_bytes_raw(),
            )
            for kid, key in private
        )

    @property
    def kid(self) -> str:
        """The id of the key that signs."""
        return self._kid

    @property
    def verification_keys(self) -> tuple[manager_pb2.VerificationKey, ...]:
        """The public keys for routers."""
        return self._verification

    def sign(
        self,
        session: SessionRecord,
        now: datetime,
        expires: datetime | None = None,
        account: str = "",
    ) -> tuple[str, datetime]:
        """Return a token for the calls of a session, and when it ends.

        Args:
            session: The session.
            now: The time.
            expires: When it shall end; unless given with the session, or in 24 hours where the
                session does not end by itself.
            account: Whose calls it is for, so that accounts share a session fairly; the session's
                own unless said.

        Raises:
            ServiceError: INVALID_REQUEST, where `expires` is past or later than the session's end.
        """
        import jwt  # noqa: PLC0415 # see above

        limit = None if session.expires is None else datetime.fromtimestamp(session.expires, tz=UTC)
        if expires is not None:
            if expires <= now:
                raise invalid("expires", "must be in the future")
            # A caller may round the session's expiry up to what a clock shows.
            if limit is not None and expires > limit + timedelta(seconds=1):
                raise invalid("expires", "must not be later than the session's expiry")
        end = expires or limit or now + _DEFAULT_LIFE
        if limit is not None:
            end = min(end, limit)
        claims = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "sub": account or session.account,
            "sid": session.id,
            "epoch": session.epoch,
            "iat": int(now.timestamp()),
            "exp": int(end.timestamp()),
            "jti": uuid.uuid4().hex,
        }
        token = jwt.encode(claims, self._key, algorithm="EdDSA", headers={"kid": self._kid})
        return token, end
