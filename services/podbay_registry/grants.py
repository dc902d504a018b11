"""Grants of API tokens: their forms, and which may be handed on. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import product
from typing import Any, Final

from podbay.v1 import account_pb2, errors_pb2
from podbay_kit.auth import Grant, Principal
from podbay_kit.errors import ServiceError, invalid
from podbay_kit.rpc_rules import FUNCTIONS, RESOURCES

__all__ = [
    "ADMIN_GRANTS",
    "check_grantable",
    "check_lifetime",
    "dump_grants",
    "grants_of",
    "load_grants",
    "own_account",
    "to_messages",
]

_ANY: Final = "*"
_MAX_GRANTS: Final = 100
_MAX_NAMES: Final = 1000
_MAX_NAME: Final = 128
_LISTS: Final = ("resources", "functions", "accounts", "entities")

_EVERY: Final = frozenset({_ANY})

ADMIN_GRANTS: Final = (Grant(_EVERY, _EVERY, _EVERY, _EVERY),)
"""Everything."""


def own_account(account: str) -> tuple[Grant, ...]:
    """Return the grants of a token unless said: everything on its own account."""
    return (Grant(_EVERY, _EVERY, frozenset({account}), frozenset()),)


def grants_of(messages: Sequence[account_pb2.Grant], path: str = "grants") -> tuple[Grant, ...]:
    """Read grants.

    Raises:
        ServiceError: INVALID_REQUEST, with the path of what is wrong.
    """
    if len(messages) > _MAX_GRANTS:
        raise invalid(path, f"holds more than {_MAX_GRANTS} grants")
    if sum(len(getattr(each, name)) for each in messages for name in _LISTS) > _MAX_NAMES:
        raise invalid(path, f"holds more than {_MAX_NAMES} names")
    return tuple(_grant(each, f"{path}.{index}") for index, each in enumerate(messages))


def _grant(message: account_pb2.Grant, path: str) -> Grant:
    _check_known(message.resources, tuple(RESOURCES), f"{path}.resources")
    _check_known(message.functions, FUNCTIONS, f"{path}.functions")
    for name in ("accounts", "entities"):
        for index, value in enumerate(getattr(message, name)):
            if not 0 < len(value) <= _MAX_NAME or "\0" in value:
                raise invalid(
                    f"{path}.{name}.{index}", f"must be text of 1 to {_MAX_NAME} characters"
                )
    if not message.accounts and not message.entities:
        raise invalid(
            f"{path}.accounts", 'is empty, as entities is: name accounts ("*" for all), or ids'
        )
    return Grant(
        frozenset(message.resources),
        frozenset(message.functions),
        frozenset(message.accounts),
        frozenset(message.entities),
    )


def _check_known(values: Sequence[str], known: Sequence[str], path: str) -> None:
    if not values:
        raise invalid(path, f'is required: "*", or some of {", ".join(known)}')
    for index, value in enumerate(values):
        if value != _ANY and value not in known:
            raise invalid(f"{path}.{index}", f'is not known: use "*", or {", ".join(known)}')


def check_grantable(creator: Principal, wanted: Iterable[Grant]) -> None:
    """Let a caller hand on only what it has.

    Raises:
        ServiceError: PERMISSION_DENIED, naming a part that the caller lacks.
    """
    if creator.service:
        return
    for grant in wanted:
        for resource, function in product(sorted(grant.resources), sorted(grant.functions)):
            _check_part(creator, resource, function, grant)


def check_lifetime(held: datetime | None, wanted: datetime | None) -> None:
    """Let a token hand on no more time than it has; None is without end.

    Raises:
        ServiceError: PERMISSION_DENIED, with the maker's end as `expires`.
    """
    if held is None or (wanted is not None and wanted <= held):
        return
    end = held.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    raise ServiceError(
        errors_pb2.ERROR_REASON_PERMISSION_DENIED,
        f"A token can hand on only the time that it has, and yours ends at {end}. Set `expires` to "
        "that or earlier, or use a token that lasts longer.",
        metadata={"expires": end},
    )


def _check_part(creator: Principal, resource: str, function: str, wanted: Grant) -> None:
    held = [grant for grant in creator.grants if grant.allows(resource, function)]
    accounts = frozenset[str]().union(*(grant.accounts for grant in held))
    entities = frozenset[str]().union(*(grant.entities for grant in held))
    if _ANY in accounts:
        # All accounts, and so all their resources.
        return
    if wanted.accounts <= accounts and (_ANY in entities or wanted.entities <= entities):
        return
    raise ServiceError(
        errors_pb2.ERROR_REASON_PERMISSION_DENIED,
        f"A token can hand on only what it was granted, and yours lacks a part of {function!r} on "
        f"{resource!r}. Ask for less, or use a token that has it.",
        metadata={"resource": resource, "function": function},
    )


def to_messages(grants: Iterable[Grant]) -> list[account_pb2.Grant]:
    """Return the messages of grants."""
    return [account_pb2.Grant(**each) for each in _plain(grants)]


def dump_grants(grants: Iterable[Grant]) -> str:
    """Return grants as JSON text."""
    return json.dumps(_plain(grants))


def load_grants(text: str) -> tuple[Grant, ...]:
    """Read grants from what `dump_grants` wrote."""
    return tuple(
        Grant(**{name: frozenset(each[name]) for name in _LISTS}) for each in json.loads(text)
    )


def _plain(grants: Iterable[Grant]) -> list[dict[str, Any]]:
    return [{name: sorted(getattr(each, name)) for name in _LISTS} for each in grants]
