"""Accounts, API tokens and nodes, synchronously."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from typing import Any

from podbay._core import platform_ops
from podbay._core.session_tokens import inspect_unverified
from podbay._sync.transport import Transport
from podbay.types import Account, ApiToken, ApiTokenAndSecret, Grant, NodeInfo

__all__ = ["Accounts", "Nodes", "Tokens"]


class Accounts:
    """Accounts, which own resources. `timeout` is as for `Resources`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, account: str, *, timeout: float | None = None) -> Account:
        """Make an account.

        Raises:
            ConflictError: It exists.
        """
        return self._transport.run(platform_ops.create_account(account), timeout)

    def list(self, *, timeout: float | None = None) -> list[Account]:
        """Return the accounts that the token may see."""
        return self._transport.run_pages(platform_ops.list_accounts, timeout)


class Tokens:
    """API tokens, which act for an account. `timeout` is as for `Resources`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        account: str,
        *,
        name: str = "",
        grants: Iterable[Grant] = (),
        expires: datetime | None = None,
        timeout: float | None = None,
    ) -> ApiTokenAndSecret:
        """Make a token; its secret is shown this once.

        Args:
            account: The account that it acts for.
            name: What people call it.
            grants: What it may do; everything on its own account unless given.
            expires: When it ends, with an offset; never unless given.
            timeout: How long the call may take, in seconds, further tries included.
        """
        return self._transport.run(
            platform_ops.create_api_token(account, name, grants, expires), timeout
        )

    def list(self, *, account: str | None = None, timeout: float | None = None) -> list[ApiToken]:
        """Return the tokens, without their secrets."""
        return self._transport.run_pages(partial(platform_ops.list_api_tokens, account), timeout)

    def revoke(self, token_id: str, *, timeout: float | None = None) -> ApiToken:
        """End a token at once."""
        return self._transport.run(platform_ops.revoke_api_token(token_id), timeout)

    def inspect_unverified(self, token: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the header and the claims of a session token, without verifying them.

        Whoever holds a token may look into it; whether it is genuine, expired or revoked only a
        service can tell. Nothing is sent.

        Raises:
            InvalidRequestError: It is no such token. An API token holds no claims.
        """
        return inspect_unverified(token)


class Nodes:
    """Nodes: the machines that run replicas. `timeout` is as for `Resources`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, timeout: float | None = None) -> builtins.list[NodeInfo]:
        """Return the nodes by name."""
        return self._transport.run(platform_ops.list_nodes(), timeout)

    def get(self, name: str, *, timeout: float | None = None) -> NodeInfo:
        """Return a node."""
        return self._transport.run(platform_ops.get_node(name), timeout)

    def cordon(self, name: str, *, timeout: float | None = None) -> NodeInfo:
        """Stop new replicas on a node; those on it go on."""
        return self._transport.run(platform_ops.cordon_node(name), timeout)

    def uncordon(self, name: str, *, timeout: float | None = None) -> NodeInfo:
        """Allow new replicas on a node again."""
        return self._transport.run(platform_ops.uncordon_node(name), timeout)
