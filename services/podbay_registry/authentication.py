"""Whom a bearer token acts for, out of the registry's own store."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from podbay.v1 import errors_pb2
from podbay_kit.auth import Principal
from podbay_kit.clock import Clock
from podbay_kit.errors import ServiceError
from podbay_registry.store import RegistryStore
from podbay_registry.tokens import ApiToken, hash_secret, id_of, is_secret

__all__ = ["Outcome", "RegistryAuthenticator"]

# Another process can revoke too (--reset-admin-token): an entry must not be believed for long. What
# this process revokes is forgotten at once.
_BELIEVED_SECONDS: Final = 1.0
_MAX_CACHED: Final = 1000

_SERVICE: Final = Principal(account="", token_id="service", service=True)  # noqa: S106 # an id, not a secret


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of checking a secret.

    Args:
        token: The token, where it is valid.
        reason: Why it is not; unspecified where it is.
    """

    token: ApiToken | None
    reason: errors_pb2.ErrorReason.ValueType = errors_pb2.ERROR_REASON_UNSPECIFIED


class RegistryAuthenticator:
    """Checks secrets, with a small memory of those that were valid a moment ago.

    Args:
        store: Where the tokens are.
        service_token: The secret that the services of the installation share; None where their
            certificates say who calls.
        clock: Where the time comes from.
    """

    def __init__(self, store: RegistryStore, service_token: str | None, clock: Clock) -> None:
        self._store = store
        self._service_digest = hash_secret(service_token) if service_token else None
        self._clock = clock
        # By the digest of the secret: memory holds no secrets either.
        self._cached: OrderedDict[str, tuple[ApiToken, float]] = OrderedDict()
        self._revocations = 0

    async def authenticate(self, token: str) -> Principal:
        """Return whom a bearer token acts for.

        Raises:
            ServiceError: TOKEN_INVALID, TOKEN_EXPIRED, TOKEN_REVOKED or STORE_UNAVAILABLE.
        """
        if self._service_digest is not None and is_secret(token, self._service_digest):
            return _SERVICE
        outcome = await self.check(token)
        if outcome.token is None:
            raise _refusal(outcome.reason)
        return outcome.token.principal()

    async def check(self, secret: str) -> Outcome:
        """Say whether a secret is that of a valid token.

        Raises:
            ServiceError: STORE_UNAVAILABLE.
        """
        token_id = id_of(secret)
        if token_id is None:
            return Outcome(None, errors_pb2.ERROR_REASON_TOKEN_INVALID)
        digest = hash_secret(secret)
        cached = self._cached.get(digest)
        if cached is not None and self._clock.monotonic() - cached[1] < _BELIEVED_SECONDS:
            return _judge(cached[0], self._clock.now())
        revocations, read_at = self._revocations, self._clock.monotonic()
        found = await self._store.database.read(
            lambda conn: self._store.tokens.find(conn, token_id)
        )
        if found is None or not is_secret(secret, found[1]):
            return Outcome(None, errors_pb2.ERROR_REASON_TOKEN_INVALID)
        outcome = _judge(found[0], self._clock.now())
        # What was read while a token was revoked may be older than that.
        if outcome.token is not None and revocations == self._revocations:
            self._remember(digest, outcome.token, read_at)
        return outcome

    def forget(self) -> None:
        """Forget all that is remembered; to be called once a token was revoked."""
        self._revocations += 1
        self._cached.clear()

    def _remember(self, digest: str, token: ApiToken, read_at: float) -> None:
        self._cached[digest] = (token, read_at)
        self._cached.move_to_end(digest)
        if len(self._cached) > _MAX_CACHED:
            self._cached.popitem(last=False)


def _judge(token: ApiToken, now: datetime) -> Outcome:
    if token.revoked is not None:
        return Outcome(None, errors_pb2.ERROR_REASON_TOKEN_REVOKED)
    if token.expires is not None and token.expires <= now:
        return Outcome(None, errors_pb2.ERROR_REASON_TOKEN_EXPIRED)
    return Outcome(token)


def _refusal(reason: errors_pb2.ErrorReason.ValueType) -> ServiceError:
    way_out = "Use another token, or ask the account's administrator for one (podbay token create)."
    messages = {
        errors_pb2.ERROR_REASON_TOKEN_EXPIRED: f"The token has expired. {way_out}",
        errors_pb2.ERROR_REASON_TOKEN_REVOKED: f"The token was revoked. {way_out}",
    }
    return ServiceError(
        reason,
        messages.get(
            reason,
            "The token is not one of this installation, or is damaged. Check that the whole "
            "token was copied, and that it belongs to this endpoint.",
        ),
    )
