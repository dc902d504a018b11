"""By which ids routers and the session manager know the limits that they share. Pure."""

from __future__ import annotations

from typing import Final

__all__ = ["account_limit_key", "is_account_limit"]

_ACCOUNT: Final = "account "


def account_limit_key(account: str) -> str:
    """Return the id of the limit of an account's calls in flight.

    No replica and no session has such an id: theirs have no space.
    """
    return f"{_ACCOUNT}{account}"


def is_account_limit(key: str) -> bool:
    """Say whether an id is that of the limit of an account."""
    return key.startswith(_ACCOUNT)
