"""Who calls the session manager: the registry knows, and answers are remembered for a while."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from podbay.v1 import account_pb2, errors_pb2, registry_service_pb2
from podbay_kit.auth import Grant, Principal
from podbay_kit.clock import Clock
from podbay_kit.errors import ServiceError
from podbay_session_manager.registry_client import RegistryUnavailableError

__all__ = ["RegistryAuthenticator", "TokenChecker"]

# Together with what the registry believes without looking, this bounds how long a revoked token
# goes on: three seconds. It costs the registry a call in two seconds for each token in use.
_FRESH_SECONDS: Final = 2.0
_STALE_SECONDS: Final = 600.0
_KEPT: Final = 10_000
_REFUSALS: Final = {
    "TOKEN_EXPIRED": (
        errors_pb2.ERROR_REASON_TOKEN_EXPIRED,
        "The API token has expired. Make a new one: podbay token create.",
    ),
    "TOKEN_REVOKED": (
        errors_pb2.ERROR_REASON_TOKEN_REVOKED,
        "The API token was revoked. Make a new one: podbay token create.",
    ),
}
_INVALID: Final = (
    errors_pb2.ERROR_REASON_TOKEN_INVALID,
    "The API token is not one of this installation. `podbay up` tells where the admin token is.",
)


class TokenChecker(Protocol):
    """Knows API tokens: the registry."""

    async def authenticate(self, secret: str) -> registry_service_pb2.AuthenticateResponse:
        """Say whom a token acts for.

        Raises:
            RegistryUnavailableError: It cannot be asked now.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal
    checked_at: float
    expires: float
    """When the token ends, in seconds since 1970."""


class RegistryAuthenticator:
    """Tells whom a bearer token acts for.

    A token that was good is taken for two seconds without asking again, and for ten minutes while
    the registry cannot be reached: the session manager goes on without it, and nobody can revoke a
    token meanwhile. Only hashes are kept.

    Args:
        registry: Knows API tokens.
        service_token: The secret that the services share; None where their certificates say who
            calls.
        clock: Where the time comes from.
    """

    def __init__(self, registry: TokenChecker, service_token: str | None, clock: Clock) -> None:
        self._registry = registry
        self._service_token = service_token.encode() if service_token else None
        self._clock = clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Principal]] = {}

    async def authenticate(self, token: str) -> Principal:
        """Return whom the token acts for.

        Raises:
            ServiceError: TOKEN_INVALID, TOKEN_EXPIRED, TOKEN_REVOKED or DEPENDENCY_UNAVAILABLE.
        """
        if self._service_token is not None and hmac.compare_digest(
            token.encode(), self._service_token
        ):
            return Principal(account="", token_id="service", service=True)  # noqa: S106 # no secret: how the log names it
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is not None:
            self._refuse_expired(known)
            if self._age(known) < _FRESH_SECONDS:
                return known.principal
        try:
            return await self._ask(digest, token)
        except RegistryUnavailableError as error:
            if known is not None and self._age(known) < _STALE_SECONDS:
                return known.principal
            raise ServiceError(
                errors_pb2.ERROR_REASON_DEPENDENCY_UNAVAILABLE,
                f"The API token cannot be checked: the registry cannot be reached now ({error}). "
                "Try again.",
                retry_after=1.0,
                metadata={"dependency": "registry"},
            ) from error

    async def _ask(self, digest: bytes, token: str) -> Principal:
        """Ask the registry, once for all who wait for the same answer."""
        task = self._asking.get(digest)
        if task is None:
            task = asyncio.get_running_loop().create_task(
                self._check(digest, token), name="check-token"
            )
            self._asking[digest] = task
            task.add_done_callback(lambda done: self._asked(digest, done))
        return await asyncio.shield(task)

    def _asked(self, digest: bytes, task: asyncio.Task[Principal]) -> None:
        self._asking.pop(digest, None)
        if not task.cancelled():
            # Everybody who waited may have gone; what came of it is not lost news.
            task.exception()

    async def _check(self, digest: bytes, token: str) -> Principal:
        # What it says is true of a moment after this, and of no later one.
        asked_at = self._clock.monotonic()
        answer = await self._registry.authenticate(token)
        if not answer.valid:
            self._known.pop(digest, None)
            reason, message = _REFUSALS.get(answer.reason, _INVALID)
            raise ServiceError(reason, message)
        api_token = answer.api_token
        principal = Principal(
            account=api_token.account, token_id=api_token.id, grants=_grants(api_token.grants)
        )
        expires = (
            api_token.expires.ToMilliseconds() / 1000 if api_token.HasField("expires") else math.inf
        )
        self._known[digest] = _Known(principal, asked_at, expires)
        self._known.move_to_end(digest)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return principal

    def _age(self, known: _Known) -> float:
        return self._clock.monotonic() - known.checked_at

    def _refuse_expired(self, known: _Known) -> None:
        if known.expires <= self._clock.now().timestamp():
            raise ServiceError(*_REFUSALS["TOKEN_EXPIRED"])


def _grants(grants: Sequence[account_pb2.Grant]) -> tuple[Grant, ...]:
    return tuple(
        Grant(
            resources=frozenset(grant.resources),
            functions=frozenset(grant.functions),
            accounts=frozenset(grant.accounts),
            entities=frozenset(grant.entities),
        )
        for grant in grants
    )
