"""Who calls, and what they may do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Protocol

from podbay.v1 import errors_pb2
from podbay_kit import audit
from podbay_kit.errors import ServiceError

__all__ = [
    "ANY",
    "Authenticator",
    "Grant",
    "Principal",
    "Scope",
    "bearer_token",
    "current_principal",
    "denied",
    "require",
    "require_service",
    "scope_of",
    "set_principal",
]

ANY: Final = "*"
"""Stands for everything in a grant."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Functions that are allowed on resources; "*" stands for everything.

    A resource is covered where its account is in `accounts` or its id in `entities`.
    """

    resources: frozenset[str]
    functions: frozenset[str]
    accounts: frozenset[str]
    entities: frozenset[str]

    def allows(self, resource: str, function: str) -> bool:
        """Say whether the grant speaks of this function on this kind of resource."""
        return bool(self.resources & {ANY, resource}) and bool(self.functions & {ANY, function})

    def covers(self, account: str, entity: str | None) -> bool:
        """Say whether the grant reaches a resource of an account."""
        if self.accounts & {ANY, account}:
            return True
        return entity is not None and bool(self.entities & {ANY, entity})


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a token acts for."""

    account: str
    token_id: str
    grants: tuple[Grant, ...] = ()
    service: bool = False
    """True for another service of this installation, which may do everything."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which resources a caller may see in a list."""

    everything: bool = False
    accounts: frozenset[str] = frozenset()
    entities: frozenset[str] = frozenset()

    def includes(self, account: str, entity: str) -> bool:
        """Say whether a resource is within the scope."""
        return self.everything or account in self.accounts or entity in self.entities


class Authenticator(Protocol):
    """Tells whom a bearer token acts for."""

    async def authenticate(self, token: str) -> Principal:
        """Return whom the token acts for.

        Raises:
            ServiceError: TOKEN_INVALID, TOKEN_EXPIRED, TOKEN_REVOKED or DEPENDENCY_UNAVAILABLE.
        """
        ...


_PRINCIPAL: ContextVar[Principal] = ContextVar("podbay_principal")


def set_principal(principal: Principal) -> None:
    """Remember who calls, for the RPC that runs."""
    _PRINCIPAL.set(principal)


def current_principal() -> Principal:
    """Return who calls, within an RPC.

    Raises:
        ServiceError: TOKEN_MISSING, where nobody was authenticated.
    """
    principal = _PRINCIPAL.get(None)
    if principal is None:
        raise _missing()
    return principal


def bearer_token(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the token out of an RPC's metadata.

    Raises:
        ServiceError: TOKEN_MISSING, or TOKEN_INVALID where the header has another form.
    """
    for key, value in metadata:
        if key.lower() != "authorization":
            continue
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
        scheme, _, token = text.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise ServiceError(
                errors_pb2.ERROR_REASON_TOKEN_INVALID,
                'The metadata "authorization" must read "Bearer TOKEN".',
            )
        return token.strip()
    raise _missing()


def require(
    principal: Principal,
    resource: str,
    function: str,
    *,
    account: str,
    entity: str | None = None,
) -> None:
    """Let the caller pass where a grant allows it.

    Args:
        principal: Who calls.
        resource: The kind in its plural form, as "inferencesessions".
        function: What is to be done, as "create".
        account: The account that owns the resource.
        entity: The id of the resource, where it has one already.

    Raises:
        ServiceError: PERMISSION_DENIED, saying what is missing.
    """
    audit.note(resource=resource, account=account, resource_id=entity)
    if principal.service:
        return
    for grant in principal.grants:
        if grant.allows(resource, function) and grant.covers(account, entity):
            return
    raise denied(resource, function)


def denied(resource: str, function: str) -> ServiceError:
    """Return the refusal of what the grants do not cover; it tells nothing of the resource."""
    return ServiceError(
        errors_pb2.ERROR_REASON_PERMISSION_DENIED,
        f"This needs {function!r} on {resource!r}, which the token does not grant here. Use a "
        "token with that grant, or ask the account's administrator for one (podbay token create).",
        metadata={"resource": resource, "function": function},
    )


def require_service(principal: Principal) -> None:
    """Let only other services of this installation pass.

    Raises:
        ServiceError: PERMISSION_DENIED.
    """
    if not principal.service:
        raise ServiceError(
            errors_pb2.ERROR_REASON_PERMISSION_DENIED,
            "This call is for the services of the installation: it needs the certificate of a "
            "service, or without certificates the service token.",
        )


def scope_of(principal: Principal, resource: str, function: str = "query") -> Scope:
    """Return which resources of a kind the caller may see."""
    if principal.service:
        return Scope(everything=True)
    grants: Sequence[Grant] = [g for g in principal.grants if g.allows(resource, function)]
    if any(ANY in g.accounts or ANY in g.entities for g in grants):
        return Scope(everything=True)
    return Scope(
        accounts=frozenset().union(*(g.accounts for g in grants)),
        entities=frozenset().union(*(g.entities for g in grants)),
    )


def _missing() -> ServiceError:
    return ServiceError(
        errors_pb2.ERROR_REASON_TOKEN_MISSING,
        'The call has no token. Send the metadata "authorization: Bearer TOKEN".',
    )
