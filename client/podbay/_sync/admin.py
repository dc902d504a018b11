"""Accounts, API tokens and nodes, synchronously."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from datetime import datetime

from podbay._core import platform_ops
from podbay._sync.transport import Transport
from podbay.types import Account, ApiToken, ApiTokenAndSecret, Grant, NodeInfo

__all__ = ["Accounts", "Nodes", "Tokens"]


class Accounts:
    """Accounts, which own resources."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, account: str) -> Account:
        """Make an account.

        Raises:
            ConflictError: It exists.
        """
        return self._transport.run(platform_ops.create_account(account))

    def list(self) -> list[Account]:
        """Return the accounts that the token may see."""
        accounts: list[Account] = []
        token = ""
        while True:
            page = self._transport.run(platform_ops.list_accounts(token))
            accounts += page.items
            token = page.next_token
            if not token:
                return accounts


class Tokens:
    """API tokens, which act for an account."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        account: str,
        *,
        name: str = "",
        grants: Iterable[Grant] = (),
        expires: datetime | None = None,
    ) -> ApiTokenAndSecret:
        """Make a token; its secret is shown this once.

        Args:
            account: The account that it acts for.
            name: What people call it.
            grants: What it may do; everything on its own account unless given.
            expires: When it ends, with an offset; never unless given.
        """
        return self._transport.run(platform_ops.create_api_token(account, name, grants, expires))

    def list(self, *, account: str | None = None) -> list[ApiToken]:
        """Return the tokens, without their secrets."""
        tokens: list[ApiToken] = []
        page_token = ""
        while True:
            page = self._transport.run(platform_ops.list_api_tokens(account, page_token))
            tokens += page.items
            page_token = page.next_token
            if not page_token:
                return tokens

    def revoke(self, token_id: str) -> ApiToken:
        """End a token at once."""
        return self._transport.run(platform_ops.revoke_api_token(token_id))


class Nodes:
    """Nodes: the machines that run replicas."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> builtins.list[NodeInfo]:
        """Return the nodes by name."""
        return self._transport.run(platform_ops.list_nodes())

    def get(self, name: str) -> NodeInfo:
        """Return a node."""
        return self._transport.run(platform_ops.get_node(name))

    def cordon(self, name: str) -> NodeInfo:
        """Stop new replicas on a node; those on it go on."""
        return self._transport.run(platform_ops.cordon_node(name))

    def uncordon(self, name: str) -> NodeInfo:
        """Allow new replicas on a node again."""
        return self._transport.run(platform_ops.uncordon_node(name))
