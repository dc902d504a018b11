"""`python -m podbay_registry.backup`: what the registry keeps, saved and loaded.

That is its database, and the files of models that are in it. A registry may run meanwhile: the
files never change, and where one is gone that the copy of the database knows, because its model
was deleted in between, the database is copied anew.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from podbay_kit.backup import ServiceBackup, run_backup
from podbay_kit.blob_files import BlobFolder, DamagedFileError
from podbay_kit.process import write_private
from podbay_kit.storage_copy import Tables, read_copy
from podbay_registry.account_store import AccountStore
from podbay_registry.file_keeper import MARKER
from podbay_registry.file_store import FileStore
from podbay_registry.tables import METADATA

__all__ = ["BACKUP"]

_TRIES: Final = 5
_FOLDER: Final = Path("models")


def _save_files(copy_database: Callable[[], Path], data: Path, folder: Path) -> list[str]:
    source, target = (BlobFolder(base / _FOLDER / "blobs") for base in (data, folder))
    for private in (target.root.parent, target.root):
        private.mkdir(exist_ok=True, mode=0o700)
    target.prepare()
    troubles: dict[str, str] = {}
    wanted: set[str] = set()
    for _ in range(_TRIES):
        wanted = set(read_copy(copy_database(), FileStore().every))
        missing = sorted(sha256 for sha256 in wanted if target.size(sha256) is None)
        before, troubles = troubles, _copy(missing, source, target)
        if not troubles or troubles == before:
            break
    for sha256, _ in list(target.stored()):
        if sha256 not in wanted:
            target.remove(sha256)
    return list(troubles.values())


def _load_files(copy: Path, data: Path, folder: Path) -> list[str]:
    source, target = (BlobFolder(base / _FOLDER / "blobs") for base in (folder, data))
    for private in (target.root.parent, target.root):
        private.mkdir(exist_ok=True, mode=0o700)
    target.prepare()
    wanted = sorted(read_copy(copy, FileStore().every))
    troubles = _copy(wanted, source, target)
    installation = read_copy(copy, AccountStore().installation)
    if installation is not None:
        write_private(data / _FOLDER / MARKER, f"{installation.id}\n")
    return list(troubles.values())


def _copy(digests: list[str], source: BlobFolder, target: BlobFolder) -> dict[str, str]:
    """Copy files that are what their names say; return what is to be told of the others."""
    troubles = {}
    for sha256 in digests:
        try:
            with source.open_verified(sha256) as file:
                _take_in(file, sha256, target)
        except DamagedFileError as error:
            what = f"holds {error.found}" if error.found else "is gone"
            troubles[sha256] = (
                f"the model file {source.path(sha256)} {what}, and was left out: upload it again, "
                "or create its model again"
            )
    return troubles


def _take_in(file: BinaryIO, sha256: str, target: BlobFolder) -> None:
    part = target.part(sha256)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as copy:
        shutil.copyfileobj(file, copy, 1 << 20)
    target.settle(part)
    target.keep(part, sha256)


BACKUP = ServiceBackup(
    "registry",
    "registry.sqlite3",
    Tables("podbay_registry", METADATA),
    save_files=_save_files,
    load_files=_load_files,
)

if __name__ == "__main__":
    sys.exit(run_backup(BACKUP))
