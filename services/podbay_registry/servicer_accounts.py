"""The RPCs on the installation, accounts and API tokens."""

# ruff: noqa: ARG002 - every method of a servicer is given the request and its context.

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import grpc
import pydantic

from podbay.schema.requests import CreateRequest
from podbay.v1 import account_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay_kit import audit
from podbay_kit.access import Access, current_access
from podbay_kit.auth import current_principal
from podbay_kit.clock import Clock
from podbay_kit.errors import invalid, reason_name
from podbay_kit.resource_pages import page_query
from podbay_kit.storage import Connection
from podbay_registry import grants
from podbay_registry.account_store import Account
from podbay_registry.authentication import RegistryAuthenticator
from podbay_registry.page_messages import page_info, time_of, timestamp
from podbay_registry.store import RegistryStore
from podbay_registry.tokens import ApiToken, new_secret

__all__ = ["AccountServicer"]

_MAX_NAME: Final = 200


class AccountServicer:
    """The part of the RegistryService that serves the installation, accounts and tokens."""

    _store: RegistryStore
    _clock: Clock
    _authenticator: RegistryAuthenticator
    _installation: pb.GetInstallationResponse

    async def GetInstallation(
        self, request: pb.GetInstallationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetInstallationResponse:
        """Tell where the other services are."""
        answer = pb.GetInstallationResponse(account=current_principal().account)
        answer.MergeFrom(self._installation)
        return answer

    async def CreateAccount(
        self, request: pb.CreateAccountRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CreateAccountResponse:
        """Make an account."""
        _check_account_id(request.id)
        current_access().permit_account(request.id)
        # Those who watch quotas are woken: the account may begin with one.
        account = await self._store.feed.write(
            lambda conn: self._store.add_account(conn, request.id, self._clock.now())
        )
        return pb.CreateAccountResponse(account=_account_message(account))

    async def ListAccounts(
        self, request: pb.ListAccountsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListAccountsResponse:
        """List the accounts that the caller may see."""
        page = page_query(request.page, orders=("creationTime", "id"))
        scope = current_access().scope()
        accounts, end = await self._store.database.read(
            lambda conn: self._store.accounts.list_page(
                conn, page, scope, revision=self._store.resources.log.revision(conn)
            )
        )
        return pb.ListAccountsResponse(
            accounts=[_account_message(account) for account in accounts],
            page=page_info(end.next_token, end.revision),
        )

    async def CreateApiToken(
        self, request: pb.CreateApiTokenRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CreateApiTokenResponse:
        """Make a token, and return its secret once."""
        now = self._clock.now()
        secret = new_secret()
        token = _new_token(request, secret.id, now)
        access = current_access()
        audit.note(resource_id=token.id)
        access.permit_account(token.account)
        grants.check_grantable(access.principal, token.grants)

        def insert(conn: Connection) -> None:
            self._store.accounts.check(conn, token.account)
            if not access.principal.service:
                maker = self._store.tokens.get(conn, access.principal.token_id)
                grants.check_lifetime(maker.expires, token.expires)
            self._store.tokens.add(conn, token, secret.digest)

        await self._store.database.write(insert)
        return pb.CreateApiTokenResponse(api_token=_token_message(token), secret=secret.secret)

    async def ListApiTokens(
        self, request: pb.ListApiTokensRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListApiTokensResponse:
        """List tokens without their secrets."""
        page = page_query(request.page, orders=("creationTime", "name", "id"))
        account = request.account if request.HasField("account") else None
        scope = current_access().scope()
        tokens, end = await self._store.database.read(
            lambda conn: self._store.tokens.list_page(
                conn,
                page,
                scope,
                account=account,
                revision=self._store.resources.log.revision(conn),
            )
        )
        return pb.ListApiTokensResponse(
            api_tokens=[_token_message(token) for token in tokens],
            page=page_info(end.next_token, end.revision),
        )

    async def RevokeApiToken(
        self, request: pb.RevokeApiTokenRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RevokeApiTokenResponse:
        """End a token at once."""
        access = current_access()
        try:
            token = await self._store.database.write(
                lambda conn: self._revoke(conn, request.id, access)
            )
        finally:
            # Also where the caller went away meanwhile: the token may be revoked.
            self._authenticator.forget()
        return pb.RevokeApiTokenResponse(api_token=_token_message(token))

    def _revoke(self, conn: Connection, token_id: str, access: Access) -> ApiToken:
        token = self._store.tokens.get(conn, token_id)
        access.permit("apitokens", token.account, token.id)
        return self._store.tokens.revoke(conn, token_id, self._clock.now())

    async def Authenticate(
        self, request: pb.AuthenticateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.AuthenticateResponse:
        """Tell another service whom a token acts for."""
        outcome = await self._authenticator.check(request.secret)
        if outcome.token is None:
            return pb.AuthenticateResponse(valid=False, reason=reason_name(outcome.reason))
        return pb.AuthenticateResponse(valid=True, api_token=_token_message(outcome.token))


def _check_account_id(account_id: str) -> None:
    if not account_id:
        raise invalid("id", "is required and must not be empty")
    try:
        CreateRequest(account=account_id)
    except pydantic.ValidationError as error:
        raise invalid(
            "id", error.errors(include_url=False, include_input=False)[0]["msg"]
        ) from error
    if account_id.endswith("\n"):
        raise invalid("id", "must not end in a newline")


def _new_token(request: pb.CreateApiTokenRequest, token_id: str, now: datetime) -> ApiToken:
    if not request.account:
        raise invalid("account", "is required and must not be empty")
    if len(request.name) > _MAX_NAME or "\0" in request.name:
        raise invalid("name", f"must be text of at most {_MAX_NAME} characters")
    expires = time_of(request.expires, "expires") if request.HasField("expires") else None
    if expires is not None and expires <= now:
        raise invalid("expires", "must lie in the future")
    return ApiToken(
        id=token_id,
        account=request.account,
        name=request.name,
        grants=grants.grants_of(request.grants) or grants.own_account(request.account),
        creation_time=now,
        expires=expires,
    )


def _account_message(account: Account) -> account_pb2.Account:
    return account_pb2.Account(id=account.id, creation_time=timestamp(account.creation_time))


def _token_message(token: ApiToken) -> account_pb2.ApiToken:
    return account_pb2.ApiToken(
        id=token.id,
        account=token.account,
        name=token.name,
        grants=grants.to_messages(token.grants),
        creation_time=timestamp(token.creation_time),
        expires=None if token.expires is None else timestamp(token.expires),
        revoked=None if token.revoked is None else timestamp(token.revoked),
    )
