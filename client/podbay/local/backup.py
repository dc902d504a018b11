"""Backups of a whole `podbay up`: the services' data, the models' files, and the secrets.

Each service saves and loads its own data, as a process of its own. What is put together here is a
folder that is whole or not there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from podbay.local.database import use_database
from podbay.local.faults import LocalError
from podbay.local.state import DataDir, write_private

__all__ = ["Saved", "restore", "save"]

_MANIFEST = "podbay-backup.json"
_FORMAT = 1
# Sessions first: the services and models that they are of are then in the backup as well.
_SERVICES = ("session-manager", "registry")
_SECRETS = ("admin-token", "service-token")
_SECRET_FOLDERS = ("certificates",)
_DAMAGED = 3


@dataclass(frozen=True)
class Saved:
    """What was saved or restored.

    Attributes:
        folder: Where it is now.
        size: How many bytes it has.
        created: When the backup was made.
        troubles: What was damaged or gone and was left out, in lines for people.
    """

    folder: Path
    size: int
    created: str
    troubles: tuple[str, ...]


def save(data: DataDir, folder: Path) -> Saved:
    """Save a data folder while its `podbay up` runs, or does not.

    Args:
        data: The data folder.
        folder: Where the backup goes; it must not be there, or be empty.

    Raises:
        LocalError: It cannot be saved. Nothing is left of it.
    """
    if not any((data.path / name).is_dir() for name in _SERVICES):
        raise LocalError(
            "NOTHING_TO_SAVE",
            f"the data folder {data.path} holds nothing of a `podbay up`",
            way_out="name the right one with --data-dir",
        )
    folder = folder.absolute()
    _refuse_content(folder, "the folder")
    created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    with _Making(folder) as making:
        troubles: list[str] = []
        for name in _SERVICES:
            troubles += _run(name, "save", making.path / name, data.path / name, data)
        _copy_secrets(data.path, making.path)
        manifest = {"format": _FORMAT, "podbay": version("podbay"), "created": created}
        write_private(making.path / _MANIFEST, json.dumps(manifest, indent=2) + "\n")
        making.keep()
    return Saved(folder, _size(folder), created, tuple(troubles))


def restore(folder: Path, data: DataDir, database: str | None = None) -> Saved:
    """Make a data folder out of a backup.

    Args:
        folder: The backup.
        data: The data folder; it must not be there, or be empty.
        database: The URL of a PostgreSQL that gets the data; None for files in the data folder.

    Raises:
        LocalError: It cannot be restored. Nothing is left of it in the data folder.
    """
    folder = folder.absolute()
    created = _created(folder)
    _refuse_content(data.path, "the data folder")
    with _Making(data.path) as making:
        new = DataDir(making.path)
        _copy_secrets(folder, making.path)
        if database is not None:
            use_database(new, database)
        troubles: list[str] = []
        for name in _SERVICES:
            troubles += _run(name, "load", folder / name, making.path / name, new)
        making.keep()
    return Saved(data.path, _size(data.path), created, tuple(troubles))


def _created(folder: Path) -> str:
    """Return when a backup was made.

    Raises:
        LocalError: It is none that this version reads.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        form, created = manifest["format"], str(manifest["created"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LocalError(
            "BACKUP_UNUSABLE",
            f"{folder} is no whole backup: {_MANIFEST} cannot be read ({type(error).__name__})",
            way_out="name the folder that `podbay backup` has made",
        ) from error
    if form != _FORMAT:
        raise LocalError(
            "BACKUP_UNUSABLE",
            f"{folder} is a backup of form {form}, which this version of Podbay does not read",
            way_out="restore it with the version that made it, or a newer one",
        )
    return created


def _refuse_content(folder: Path, what: str) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LocalError(
            "NOT_EMPTY",
            f"{what} {folder} is not empty; nothing was changed",
            way_out="name another one, or move away what is there",
        )


class _Making:
    """A folder that becomes another one when it is whole, and is removed when it does not."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = target

    def __enter__(self) -> Self:
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            name = tempfile.mkdtemp(dir=self._target.parent, prefix=f".{self._target.name}.")
        except OSError as error:
            raise LocalError(
                "FOLDER_NOT_WRITABLE",
                f"nothing can be written beside {self._target}: {error.strerror}",
                way_out="name a folder on a disk with room that you may write to",
            ) from error
        self.path = Path(name)
        return self

    def keep(self) -> None:
        """Give the folder its name; the disk knows all of it by then."""
        for parent, _, names in os.walk(self.path):
            for entry in (*names, "."):
                _sync(Path(parent) / entry)
        self.path.rename(self._target)
        _sync(self._target.parent)

    def __exit__(self, *_error: object) -> None:
        if self.path.exists():
            shutil.rmtree(self.path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _run(name: str, action: str, folder: Path, service_dir: Path, data: DataDir) -> Sequence[str]:
    """Have a service save or load, and return what it found damaged or gone.

    Raises:
        LocalError: It could not.
    """
    database = data.database_file
    command = [
        *(sys.executable, "-m", f"podbay_{name.replace('-', '_')}.backup", action, str(folder)),
        *("--data-dir", str(service_dir)),
        *(("--database-file", str(database)) if database.exists() else ()),
    ]
    done = subprocess.run(  # noqa: S603 # the command line is this program's own
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    lines = done.stderr.strip().splitlines()
    if done.returncode not in (0, _DAMAGED):
        raise LocalError(
            "BACKUP_FAILED" if action == "save" else "RESTORE_FAILED",
            f"the data of the {name} cannot be {'saved' if action == 'save' else 'restored'}",
            evidence=lines[-20:],
        )
    return lines


def _copy_secrets(source: Path, target: Path) -> None:
    for name in _SECRETS:
        if (source / name).is_file():
            write_private(target / name, (source / name).read_text(encoding="utf-8"))
    for name in _SECRET_FOLDERS:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)


def _size(folder: Path) -> int:
    return sum(
        (Path(parent) / name).lstat().st_size
        for parent, _, names in os.walk(folder)
        for name in names
    )
