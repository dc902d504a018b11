"""Whether the caller of an RPC may do what it asks for, by the table of `podbay_kit.rpc_rules`.

The interceptor begins an `Access` for each RPC: whoever lacks the function altogether is refused
before anything is looked at. The servicer tells it which account and which resource are meant.
Nobody learns from a refusal whether a resource of others exists: an id that does not exist and one
that the grants do not reach are answered alike.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from podbay.v1 import errors_pb2
from podbay_kit import audit
from podbay_kit.auth import ANY, Principal, Scope, denied, require, require_service, scope_of
from podbay_kit.errors import ServiceError
from podbay_kit.rpc_rules import RESOURCES, Found, Need, Rule, Who

__all__ = ["Access", "current_access", "set_access"]

# Resources of the installation belong to no account: only grants on all accounts reach them.
_NO_ACCOUNT: Final = ""


class Access:
    """What the RPC that runs needs, and who calls.

    The methods that let a caller pass or not may be called in any thread.

    Args:
        rule: What the RPC needs.
        principal: Who calls.
    """

    def __init__(self, rule: Rule, principal: Principal) -> None:
        self.rule: Final = rule
        self.principal: Final = principal
        self._decided = rule.who is not Who.GRANTED

    @property
    def decided(self) -> bool:
        """Whether somebody has asked about what is meant; an RPC must not answer before that."""
        return self._decided

    def begin(self) -> None:
        """Let a caller pass that may do such a thing at all.

        Raises:
            ServiceError: PERMISSION_DENIED, saying what is missing.
        """
        if self.rule.who is Who.SERVICES:
            require_service(self.principal)
        if self.rule.who is not Who.GRANTED:
            return
        missing = [
            next((need for need in way if not need.when and not self._has(need)), None)
            for way in self.rule.ways
        ]
        if all(missing):
            audit.note(resource=_words(missing[0])[0])
            raise denied(*_words(missing[0]))

    def permit_account(self, account: str) -> None:
        """Let a caller pass that may do it in an account.

        Raises:
            ServiceError: PERMISSION_DENIED.
        """
        self._check(self._need(Found.ACCOUNT), account, None)

    def permit(self, resource: str, account: str, entity: str) -> None:
        """Let a caller pass that may do it with a resource.

        Args:
            resource: The kind, as "models".
            account: The account that owns it.
            entity: Its id.

        Raises:
            ServiceError: PERMISSION_DENIED where the caller may do it with none of the kind;
                otherwise the same as where the id does not exist.
        """
        self._check(self._need(Found.RESOURCE, resource), account, entity)

    def permit_shown(self, resource: str, account: str, entity: str) -> None:
        """Let a caller pass that may do it with a resource which it sees as a part of another.

        Raises:
            ServiceError: PERMISSION_DENIED.
        """
        self._check(self._need(Found.SHOWN, resource), account, entity)

    def permit_installation(self, entity: str | None = None) -> None:
        """Let a caller pass that may do it with what belongs to the installation.

        Args:
            entity: The id of what is meant; None where all are.

        Raises:
            ServiceError: PERMISSION_DENIED.
        """
        self._check(self._need(Found.INSTALLATION), _NO_ACCOUNT, entity)

    def scope(self) -> Scope:
        """Return which of what is listed the caller may see."""
        need = self._need(Found.LISTED)
        self._decided = True
        return scope_of(self.principal, need.resource, need.function)

    def answer(self, error: ServiceError) -> ServiceError:
        """Return the error by which an RPC may end that met this one.

        What a caller of limited reach is told of an id that does not exist is what it is told of
        one that belongs to others.
        """
        if self.principal.service:
            return error
        for need in self.rule.needs():
            if (
                need.found is Found.RESOURCE
                and error.reason == RESOURCES[need.resource].not_found
                and not scope_of(self.principal, need.resource, need.function).everything
            ):
                return self._out_of_reach(need)
        return error

    def _check(self, need: Need, account: str, entity: str | None) -> None:
        self._decided = True
        try:
            require(self.principal, need.resource, need.function, account=account, entity=entity)
        except ServiceError:
            audit.note_refused()
            if need.found is Found.RESOURCE:
                raise self._out_of_reach(need) from None
            raise

    def _need(self, found: Found, resource: str | None = None) -> Need:
        for need in self.rule.needs():
            if need.found is found and resource in {None, need.resource}:
                return need
        # Fails closed: the table does not say that the RPC looks at such a thing.
        raise LookupError(f"no need of this RPC is found by {found.name} {resource or ''}".strip())

    def _has(self, need: Need) -> bool:
        """Say whether the caller may do it with anything at all."""
        if self.principal.service:
            return True
        grants = [g for g in self.principal.grants if g.allows(need.resource, need.function)]
        if need.found is Found.INSTALLATION:
            return any(ANY in grant.accounts or grant.entities for grant in grants)
        return bool(grants)

    def _out_of_reach(self, need: Need) -> ServiceError:
        if not self._has(need):
            return denied(*_words(need))
        kind = RESOURCES[need.resource]
        return ServiceError(
            kind.not_found,
            f"There is no {kind.noun} with this id, or the token's grants do not reach it: this "
            f"needs {need.function!r} on {need.resource!r}. {kind.list_command} shows those that "
            "it may list.",
            metadata={"resource": need.resource, "function": need.function},
        )


def _words(need: Need | None) -> tuple[str, str]:
    if need is None:
        raise LookupError("nothing is missing")
    return need.resource, need.function


_ACCESS: ContextVar[Access] = ContextVar("podbay_access")


def set_access(access: Access) -> None:
    """Remember the access of the RPC that runs."""
    _ACCESS.set(access)


def current_access() -> Access:
    """Return the access of the RPC that runs.

    Raises:
        ServiceError: TOKEN_MISSING, where nobody was authenticated.
    """
    access = _ACCESS.get(None)
    if access is None:
        raise ServiceError(
            errors_pb2.ERROR_REASON_TOKEN_MISSING,
            'The call has no token. Send the metadata "authorization: Bearer TOKEN".',
        )
    return access
