"""When keys of session tokens are made and removed. Pure: times are seconds since 1970."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

__all__ = [
    "COVERED_SECONDS",
    "KeyPlan",
    "SigningKeyRow",
    "covered_until",
    "plan_keys",
    "signing_key",
]

COVERED_SECONDS: Final = 3600.0
"""How exactly it is written down until when a key's tokens go on: a token rarely costs a write."""

# Clocks of routers differ a little, and a token that has just ended is refused as such, not as one
# of an unknown key.
_LINGER_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class SigningKeyRow:
    """A key that signs session tokens. Times are seconds since 1970."""

    kid: str
    private_key: bytes = field(repr=False)
    """The raw Ed25519 private key; a secret."""
    created_at: float
    activated_at: float | None = None
    """Since when it signs; None while routers are still being told of it."""
    verifies_until: float = 0.0
    """No token that it signed ends later."""


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """What is to be done.

    Args:
        make: Whether a new key is due.
        remove: The keys of which no token is left.
        next_at: When to look again at the latest, where nothing else happens; None for no time.
    """

    make: bool
    remove: tuple[str, ...]
    next_at: float | None


def signing_key(keys: Iterable[SigningKeyRow]) -> SigningKeyRow | None:
    """Return the key that signs: the one that began to last; None where none has begun."""
    begun = [(key.activated_at, key.kid, key) for key in keys if key.activated_at is not None]
    return max(begun)[2] if begun else None


def covered_until(end: float) -> float:
    """Return what to write down for a token that ends by then: a full hour, and not earlier."""
    return (end // COVERED_SECONDS + 1) * COVERED_SECONDS


def plan_keys(keys: Sequence[SigningKeyRow], now: float, max_age: float) -> KeyPlan:
    """Plan what is to be done with the keys.

    Args:
        keys: All keys.
        now: The time.
        max_age: Seconds after which a key is followed by another.
    """
    signs = signing_key(keys)
    if signs is None or signs.activated_at is None:
        return KeyPlan(make=not keys, remove=(), next_at=None)
    retired = [key for key in keys if key is not signs and key.activated_at is not None]
    ends = {key.kid: key.verifies_until + _LINGER_SECONDS for key in retired}
    remove = tuple(sorted(kid for kid, end in ends.items() if end <= now))
    pending = any(key.activated_at is None for key in keys)
    due = signs.activated_at + max_age
    make = due <= now and not pending
    times = [end for kid, end in ends.items() if kid not in remove]
    if not make and due > now:
        times.append(due)
    return KeyPlan(make=make, remove=remove, next_at=min(times, default=None))
