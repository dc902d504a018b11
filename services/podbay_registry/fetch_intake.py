"""What was fetched becomes the files of a model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from podbay.schema import platform
from podbay_kit.blob_files import Digests, Hasher, remove_tree
from podbay_kit.storage import Connection
from podbay_registry import model_life
from podbay_registry.account_room import check_room
from podbay_registry.blob_store import BlobStore
from podbay_registry.fetch_plan import FetchFailure, Found, check_paths, lay_in
from podbay_registry.fetch_process import FetchedFile
from podbay_registry.kinds import MODELS
from podbay_registry.store import RegistryStore

__all__ = ["take_in"]


async def take_in(
    store: RegistryStore,
    blobs: BlobStore,
    model: platform.Model,
    folder: Path,
    files: Sequence[FetchedFile],
    now: datetime,
) -> Mapping[str, Digests]:
    """Take files into the store, and make the model ready.

    Args:
        store: The registry's database.
        blobs: Where files go.
        model: The model.
        folder: Where they lie.
        files: Which they are.
        now: The time.

    Returns:
        The files of the model by their paths in its folder.

    Raises:
        FetchFailure: A file is not what its source announced, or has a name that is not portable,
            or the files are not those that the model declares.
        ServiceError: STORAGE_FULL or ACCOUNT_STORAGE_FULL.
    """
    # First: a path that leads out of the folder must not even be looked at.
    check_paths(model, (file.path for file in files))
    with blobs.pinned() as pins:
        found = []
        for file in files:
            path = folder / file.path
            digests = await blobs.run(_digests, blobs, path)
            if file.sha256 not in (None, digests.sha256):
                await blobs.run(remove_tree, folder)
                raise _spoiled(file, digests)
            pins.add(digests.sha256)
            await blobs.keep_fetched(path, digests, model.account)
            found.append(Found(file.path, digests))
        laid = lay_in(model, found)
        await store.feed.write(lambda conn: _finish(store, blobs, conn, model.id, laid, now))
    return laid


def _digests(blobs: BlobStore, path: Path) -> Digests:
    hasher = Hasher()
    # A link would lead to other files of this machine.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        hasher.update_from(file, closing=blobs.folder.verifier.closing)
    return hasher.digests()


def _finish(
    store: RegistryStore,
    blobs: BlobStore,
    conn: Connection,
    model_id: str,
    laid: Mapping[str, Digests],
    now: datetime,
) -> None:
    model = store.resources.get(conn, MODELS, model_id)
    if not model_life.is_to_fetch(model):
        return
    store.quotas.lock(conn, model.account)
    contents = {digests.sha256: digests.size for digests in laid.values()}
    check_room(store, conn, model.account, contents, {})
    for path, digests in laid.items():
        blobs.files.link(conn, model_id, path, digests.sha256, now)
    store.resources.update(conn, MODELS, model_life.fetched(model, now), now=now)


def _spoiled(file: FetchedFile, found: Digests) -> FetchFailure:
    return FetchFailure(
        f"The file {file.path!r} has the SHA-256 {found.sha256}, and its source announced "
        f"{file.sha256}: it was damaged on its way.",
        transient=True,
    )
