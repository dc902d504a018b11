"""How many bytes the models of an account have, and whether more fit into its quota.

What counts: each content that a living model of the account has, once; and what is on its way to
such a model, in the size that was announced. So what is deleted counts no more at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from podbay_kit.storage import Connection
from podbay_registry.file_errors import account_full
from podbay_registry.store import RegistryStore

__all__ = ["FETCHING", "check_room", "room_used"]

FETCHING: Final = "fetching."
"""What the name of that begins with which is fetched for a model, before the model's id."""


def room_used(
    store: RegistryStore, conn: Connection, account: str, incoming: Mapping[str, int]
) -> int:
    """Return how many bytes an account uses.

    Args:
        store: The registry's store.
        conn: The transaction.
        account: The account.
        incoming: Bytes of parts and claims by their names: "MODEL.SHA256", or FETCHING and a model.
    """
    contents = store.quotas.contents(conn, account)
    return sum(contents.values()) + _on_its_way(store, conn, account, incoming, contents)


def check_room(
    store: RegistryStore,
    conn: Connection,
    account: str,
    wanted: Mapping[str, int],
    incoming: Mapping[str, int],
) -> None:
    """Let contents pass for which the account's quota has room.

    Args:
        store: The registry's store.
        conn: The transaction.
        account: The account.
        wanted: Sizes of what comes by its digest; what the account has already needs no room.
        incoming: What is on its way besides, as for `room_used`.

    Raises:
        ServiceError: ACCOUNT_STORAGE_FULL.
    """
    limit = store.quotas.get(conn, account).quota.model_bytes
    if limit is None:
        return
    contents = store.quotas.contents(conn, account)
    new = {name: size for name, size in wanted.items() if name not in contents}
    needed = sum(new.values())
    if not needed:
        return
    there = {**contents, **new}
    used = sum(contents.values()) + _on_its_way(store, conn, account, incoming, there)
    if used + needed > limit:
        raise account_full(account, needed=needed, used=used, limit=limit)


def _on_its_way(
    store: RegistryStore,
    conn: Connection,
    account: str,
    incoming: Mapping[str, int],
    there: Mapping[str, int],
) -> int:
    """Return the bytes that are on their way, but for contents that are counted already."""
    if not incoming:
        return 0
    models = store.quotas.living_models(conn, account)
    coming: dict[str, int] = {}
    for name, size in incoming.items():
        if name.startswith(FETCHING):
            model, content = name.removeprefix(FETCHING), name
        else:
            model, _, content = name.partition(".")
        if model in models and content not in there:
            coming[content] = max(size, coming.get(content, 0))
    return sum(coming.values())
