"""Accounts, audit logs, API tokens, the keys of session tokens and nodes, synchronously."""

from __future__ import annotations

import builtins
from collections.abc import Generator, Iterable, Mapping
from datetime import datetime
from functools import partial
from types import EllipsisType
from typing import Any

from podbay._core import key_ops, node_ops, platform_ops, quota_ops
from podbay._core.session_tokens import inspect_unverified
from podbay._sync.transport import Transport
from podbay.schema.nodes import NodeDeclaration
from podbay.types import (
    Account,
    AccountQuota,
    AccountUsage,
    ApiToken,
    ApiTokenAndSecret,
    AuditRecord,
    Grant,
    NodeInfo,
    NodesChange,
    SigningKeyInfo,
)

__all__ = ["Accounts", "Audit", "Nodes", "SigningKeys", "Tokens"]


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

    def quota(self, account: str, *, timeout: float | None = None) -> AccountQuota:
        """Return how much an account may have."""
        return self._transport.run(quota_ops.get_account_quota(account), timeout)

    def usage(self, account: str, *, timeout: float | None = None) -> AccountUsage:
        """Return how much an account has of what its quota speaks of."""
        usage = self._transport.run(quota_ops.get_account_usage(account), timeout)
        size = self._transport.run(quota_ops.get_model_bytes(account), timeout)
        return quota_ops.with_model_bytes(usage, size)

    def set_quota(
        self,
        account: str,
        *,
        sessions: int | EllipsisType | None = ...,
        replicas: int | EllipsisType | None = ...,
        gpus: Mapping[str, int | None] | EllipsisType | None = ...,
        model_bytes: int | EllipsisType | None = ...,
        requests_in_flight: int | EllipsisType | None = ...,
        timeout: float | None = None,
    ) -> AccountQuota:
        """Change how much an account may have, and return its whole quota.

        What is not given stays as it is; None lifts a limit. What runs goes on, also where a limit
        is below what is used.

        Args:
            account: The account.
            sessions: Sessions that have begun and not ended.
            replicas: The replicas that these shall have.
            gpus: GPUs that these need, by hardware type; None for a type lifts its limit, and
                None instead of the mapping all of them.
            model_bytes: Bytes of the files of its models.
            requests_in_flight: Calls with tokens of the account that run.
            timeout: How long the call may take, in seconds, further tries included.

        Raises:
            NotFoundError: There is no such account.
            PermissionDeniedError: The token may not change quotas.
        """
        return self._transport.run(
            quota_ops.set_account_quota(
                account,
                sessions=sessions,
                replicas=replicas,
                gpus=gpus,
                model_bytes=model_bytes,
                requests_in_flight=requests_in_flight,
            ),
            timeout,
        )


class Audit:
    """The audit logs of the services. `timeout` is as for `Resources`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self,
        *,
        service: str | None = None,
        account: str | None = None,
        resource: str | None = None,
        resource_id: str | None = None,
        actor: str | None = None,
        method: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        failed: bool | None = None,
        limit: int = 100,
        timeout: float | None = None,
    ) -> builtins.list[AuditRecord]:
        """Return the newest entries that the token may see, the newest first.

        Args:
            service: Only those of the "registry" or the "session-manager".
            account: Only those on resources of this account.
            resource: Only those on this kind of resource, as "models".
            resource_id: Only those on the resource with this id.
            actor: Only those by this account, or by the API token with this id.
            method: Only those of this method, as "CreateModel".
            since: Only those from this time on, with an offset.
            until: Only those before this time.
            failed: Only calls that failed, or only those that did what they should.
            limit: How many at most.
            timeout: How long each call may take, in seconds, further tries included.

        Raises:
            PermissionDeniedError: The token may not query audit logs.
        """
        question = quota_ops.AuditQuestion(
            service=service,
            account=account,
            resource=resource,
            resource_id=resource_id,
            actor=actor,
            method=method,
            since=since,
            until=until,
            failed=failed,
            limit=limit,
        )
        found: builtins.list[AuditRecord] = []
        for name in question.services:
            token, left = "", limit
            while left > 0:
                page = self._transport.run(
                    quota_ops.list_audit_records(question, name, token, left), timeout
                )
                found += page.items
                token, left = page.next_token, left - len(page.items)
                if not token:
                    break
        return quota_ops.newest_first(found, limit)


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


class SigningKeys:
    """Keys that sign and verify session tokens. `timeout` is as for `Resources`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, timeout: float | None = None) -> builtins.list[SigningKeyInfo]:
        """Return the keys, newest first, without their secrets."""
        return self._transport.run(key_ops.list_keys(), timeout)

    def rotate(self, *, timeout: float | None = None) -> builtins.list[SigningKeyInfo]:
        """Sign by a new key from now on, and return all keys, newest first.

        Tokens of earlier keys stay good: those verify until the last token that they signed ends.

        Raises:
            ConflictError: There are as many keys as may be.
        """
        return self._transport.run(key_ops.rotate_keys(), timeout)


class Nodes:
    """Nodes: the machines that run replicas. `timeout` is as for `Resources`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, timeout: float | None = None) -> builtins.list[NodeInfo]:
        """Return the nodes by name."""
        return self._transport.run(node_ops.list_nodes(), timeout)

    def get(self, name: str, *, timeout: float | None = None) -> NodeInfo:
        """Return a node."""
        return self._transport.run(node_ops.get_node(name), timeout)

    def cordon(self, name: str, *, timeout: float | None = None) -> NodeInfo:
        """Stop new replicas on a node; those on it go on."""
        return self._transport.run(node_ops.cordon_node(name), timeout)

    def uncordon(self, name: str, *, timeout: float | None = None) -> NodeInfo:
        """Allow new replicas on a node again."""
        return self._transport.run(node_ops.uncordon_node(name), timeout)

    def drain(self, name: str, *, timeout: float | None = None) -> NodeInfo:
        """Move all replicas away from a node, one by one, and let no new ones come."""
        return self._transport.run(node_ops.drain_node(name), timeout)

    def undrain(self, name: str, *, timeout: float | None = None) -> NodeInfo:
        """End the draining of a node; what has moved does not come back."""
        return self._transport.run(node_ops.undrain_node(name), timeout)

    def declare(
        self, node: NodeDeclaration | Mapping[str, Any], *, timeout: float | None = None
    ) -> NodeInfo:
        """Add a node, or change what is declared of one.

        Args:
            node: What it is and has, or its JSON form.
            timeout: How long the call may take, in seconds, further tries included.

        Raises:
            InvalidRequestError: The declaration breaks a rule.
            ConflictError: Replicas on it have what it would lose.
        """
        return self._transport.run(node_ops.declare_node(node), timeout)

    def withdraw(self, name: str, *, lost: bool = False, timeout: float | None = None) -> None:
        """Remove a declared node on which nothing runs.

        Args:
            name: Its name.
            lost: Says that the machine is gone for good, with all that ran on it. Never say so of
                a machine that may come back: what runs on it would go on.
            timeout: How long the call may take, in seconds.

        Raises:
            ConflictError: Replicas are on it.
        """
        self._transport.run(node_ops.withdraw_node(name, lost), timeout)

    def watch(self, *, timeout: float | None = None) -> Generator[NodesChange, None, None]:
        """Yield all nodes, and then what changes; after a lost connection all of them again.

        Args:
            timeout: How long to go on, in seconds; without end unless given.
        """
        return self._transport.follow(node_ops.watch_nodes, timeout)
