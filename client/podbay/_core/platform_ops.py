"""The installation, accounts and API tokens: what is asked, and what comes back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from podbay._core.arguments import text
from podbay._core.operations import Operation, Page, Service
from podbay._core.times import optional_time, to_timestamp
from podbay.types import Account, ApiToken, ApiTokenAndSecret, Grant, Installation
from podbay.v1 import account_pb2, common_pb2
from podbay.v1 import registry_service_pb2 as registry

__all__ = [
    "create_account",
    "create_api_token",
    "get_installation",
    "list_accounts",
    "list_api_tokens",
    "revoke_api_token",
]


def get_installation() -> Operation[Installation]:
    """Ask what and where the installation is."""
    return Operation(
        service=Service.REGISTRY,
        method="GetInstallation",
        what="get the installation",
        request=registry.GetInstallationRequest(),
        response=registry.GetInstallationResponse,
        decode=_installation,
    )


def _installation(answer: registry.GetInstallationResponse) -> Installation:
    return Installation(
        id=answer.installation_id,
        version=answer.version,
        session_manager_endpoint=answer.session_manager_endpoint,
        inference_router_endpoint=answer.inference_router_endpoint,
        account=answer.account,
    )


def create_account(account: str) -> Operation[Account]:
    """Make an account."""
    return Operation(
        service=Service.REGISTRY,
        method="CreateAccount",
        what="create the account",
        request=registry.CreateAccountRequest(id=text(account, "account")),
        response=registry.CreateAccountResponse,
        decode=lambda answer: _account(answer.account),
        safe=False,
    )


def list_accounts(page_token: str) -> Operation[Page[Account]]:
    """Ask for a page of accounts."""
    return Operation(
        service=Service.REGISTRY,
        method="ListAccounts",
        what="list the accounts",
        request=registry.ListAccountsRequest(page=common_pb2.PageRequest(page_token=page_token)),
        response=registry.ListAccountsResponse,
        decode=lambda answer: _page([_account(item) for item in answer.accounts], answer),
    )


def create_api_token(
    account: str, name: str, grants: Iterable[Grant], expires: datetime | None
) -> Operation[ApiTokenAndSecret]:
    """Make an API token."""
    request = registry.CreateApiTokenRequest(
        account=text(account, "account"), name=text(name, "name")
    )
    for grant in grants:
        request.grants.add(
            resources=[text(each, "grants.resources") for each in grant.resources],
            functions=[text(each, "grants.functions") for each in grant.functions],
            accounts=[text(each, "grants.accounts") for each in grant.accounts],
            entities=[text(each, "grants.entities") for each in grant.entities],
        )
    if expires is not None:
        request.expires.CopyFrom(to_timestamp(expires, "expires"))
    return Operation(
        service=Service.REGISTRY,
        method="CreateApiToken",
        what="create the API token",
        request=request,
        response=registry.CreateApiTokenResponse,
        decode=lambda answer: ApiTokenAndSecret(_api_token(answer.api_token), answer.secret),
        safe=False,
    )


def list_api_tokens(account: str | None, page_token: str) -> Operation[Page[ApiToken]]:
    """Ask for a page of API tokens."""
    request = registry.ListApiTokensRequest(page=common_pb2.PageRequest(page_token=page_token))
    if account is not None:
        request.account = text(account, "account")
    return Operation(
        service=Service.REGISTRY,
        method="ListApiTokens",
        what="list the API tokens",
        request=request,
        response=registry.ListApiTokensResponse,
        decode=lambda answer: _page([_api_token(item) for item in answer.api_tokens], answer),
    )


def revoke_api_token(token_id: str) -> Operation[ApiToken]:
    """End an API token."""
    return Operation(
        service=Service.REGISTRY,
        method="RevokeApiToken",
        what="revoke the API token",
        request=registry.RevokeApiTokenRequest(id=text(token_id, "token_id")),
        response=registry.RevokeApiTokenResponse,
        decode=lambda answer: _api_token(answer.api_token),
    )


def _page(items: list[Any], answer: Any) -> Page[Any]:
    return Page(items, answer.page.next_page_token, answer.page.revision)


def _account(account: account_pb2.Account) -> Account:
    return Account(account.id, optional_time(account, "creation_time"))


def _api_token(token: account_pb2.ApiToken) -> ApiToken:
    return ApiToken(
        id=token.id,
        account=token.account,
        name=token.name,
        grants=tuple(
            Grant(
                resources=tuple(grant.resources),
                functions=tuple(grant.functions),
                accounts=tuple(grant.accounts),
                entities=tuple(grant.entities),
            )
            for grant in token.grants
        ),
        creation_time=optional_time(token, "creation_time"),
        expires=optional_time(token, "expires"),
        revoked=optional_time(token, "revoked"),
    )
