"""API tokens: how they look, and how a secret is checked. Pure but for the random bytes.

A secret reads `pbt_ID.RANDOM`. The part before the dot is the token's id, which may be shown; of
the whole only a SHA-256 digest is stored.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from podbay_kit.auth import Grant, Principal

__all__ = ["ApiToken", "NewSecret", "hash_secret", "id_of", "is_secret", "new_secret"]

_RANDOM_BYTES: Final = 32
_FORM: Final = re.compile(r"(pbt_[0-9a-f]{16})\.[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A secret that was just made.

    Args:
        id: The id of its token.
        secret: The secret itself, to be shown once.
        digest: What is stored of it.
    """

    id: str
    secret: str = field(repr=False)
    digest: str


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token, without its secret."""

    id: str
    account: str
    name: str
    grants: tuple[Grant, ...]
    creation_time: datetime
    expires: datetime | None = None
    revoked: datetime | None = None

    def principal(self) -> Principal:
        """Return whom the token acts for."""
        return Principal(account=self.account, token_id=self.id, grants=self.grants)


def new_secret() -> NewSecret:
    """Make a secret of 32 random bytes, and an id for its token."""
    token_id = f"pbt_{secrets.token_hex(8)}"
    random = base64.urlsafe_b64encode(secrets.token_bytes(_RANDOM_BYTES)).rstrip(b"=").decode()
    secret = f"{token_id}.{random}"
    return NewSecret(token_id, secret, hash_secret(secret))


def hash_secret(secret: str) -> str:
    """Return what is stored of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def id_of(secret: str) -> str | None:
    """Return the id of the token that a secret would belong to; None where it is of no form."""
    match = _FORM.fullmatch(secret)
    return match[1] if match else None


def is_secret(secret: str, digest: str) -> bool:
    """Say whether a secret is the one that a digest was made of, in constant time."""
    return hmac.compare_digest(hash_secret(secret), digest)
