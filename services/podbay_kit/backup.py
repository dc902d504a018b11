"""Backups of one service as a process: `python -m podbay_registry.backup save FOLDER`.

The folder gets the copy of the database and `backup.json`, which says what is in it; a service may
add more. `podbay backup` puts those of all services together.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from podbay_kit.errors import StartError
from podbay_kit.process import write_private
from podbay_kit.storage import chosen_database, database_options, sqlite_url
from podbay_kit.storage_copy import Tables, load_database, save_database

__all__ = ["BackupError", "ServiceBackup", "run_backup"]

_MANIFEST: Final = "backup.json"
_FORMAT: Final = 1
_DAMAGED: Final = 3
_CHUNK: Final = 1 << 20


class BackupError(StartError):
    """A backup cannot be made or used; the text says why."""


def _nothing(_copy: Path, _data: Path, _folder: Path) -> list[str]:
    return []


@dataclass(frozen=True)
class ServiceBackup:
    """What there is to be saved of a service.

    Args:
        service: Its name, as "registry".
        file: The name of its SQLite file in the data directory.
        tables: Its tables.
        save_files: Saves what lies beside the database; it is given a function that makes the copy
            of the database anew, the data directory and the folder of the backup, and returns
            lines about what is damaged or gone.
        load_files: Brings that back; it is given the copy of the database, the data directory and
            the folder of the backup, and returns such lines.
    """

    service: str
    file: str
    tables: Tables
    save_files: Callable[[Callable[[], Path], Path, Path], list[str]] | None = None
    load_files: Callable[[Path, Path, Path], list[str]] = _nothing


def run_backup(backup: ServiceBackup, arguments: Sequence[str] | None = None) -> int:
    """Save or load, and return the exit code: 3 where files were found damaged or gone.

    Args:
        backup: What is saved.
        arguments: The command line; that of the process unless given.
    """
    options = _parser(backup).parse_args(arguments)
    try:
        database = chosen_database(options, backup.service)
        act = _save if options.action == "save" else _load
        troubles = act(backup, options.data_dir.absolute(), options.folder.absolute(), database)
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"{error.filename or options.folder}: {error.strerror}\n")
        return 2
    for line in troubles:
        sys.stderr.write(f"{line}\n")
    return _DAMAGED if troubles else 0


def _parser(backup: ServiceBackup) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"podbay_{backup.service}.backup",
        description="Saves what a service keeps into a folder while the service runs, and makes a "
        "new data directory (and PostgreSQL schema) out of such a folder.",
    )
    parser.add_argument("action", choices=["save", "load"])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder of the backup")
    parser.add_argument(
        "--data-dir", type=Path, required=True, metavar="DIR", help="where the service keeps data"
    )
    database_options(parser, backup.service)
    return parser


def _save(backup: ServiceBackup, data: Path, folder: Path, database: str | None) -> list[str]:
    url = database or f"sqlite:///{data / backup.file}"
    if folder.exists() and any(folder.iterdir()):
        raise BackupError(f"The folder {folder} is not empty, and nothing was changed.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    copy = folder / backup.file
    schema = ""

    def copy_database() -> Path:
        nonlocal schema
        newer = copy.with_name(f"{copy.name}.new")
        newer.unlink(missing_ok=True)
        schema = save_database(url, backup.tables, newer)
        newer.replace(copy)
        return copy

    if backup.save_files is None:
        copy_database()
        troubles = []
    else:
        troubles = backup.save_files(copy_database, data, folder)
    manifest = {
        "format": _FORMAT,
        "service": backup.service,
        "schema": schema,
        "database": backup.file,
        "sha256": _sha256(copy),
        "troubles": troubles,
    }
    write_private(folder / _MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return troubles


def _load(backup: ServiceBackup, data: Path, folder: Path, database: str | None) -> list[str]:
    copy = _checked(backup, folder)
    # Where there is data of any kind, nothing is touched.
    if data.exists() and any(data.iterdir()):
        raise BackupError(f"The data directory {data} is not empty, and nothing was changed.")
    made = not data.exists()
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        troubles = backup.load_files(copy, data, folder)
        # Last: without its database, a data directory is none.
        url = database or f"sqlite:///{data / backup.file}"
        load_database(copy, backup.tables, url)
    except BaseException:
        _clear(data, itself=made)
        raise
    if database is None:
        # The mode and the folder as the service makes them.
        sqlite_url(data / backup.file)
    return troubles


def _checked(backup: ServiceBackup, folder: Path) -> Path:
    """Return the copy of the database in a backup that is whole.

    Raises:
        BackupError: It is not.
    """
    path = folder / _MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = (manifest["format"], manifest["service"], manifest["database"])
        digest = manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupError(
            f"{folder} is no whole backup of the {backup.service}: {path.name} cannot be read "
            f"({type(error).__name__}). Nothing was changed."
        ) from error
    if known != (_FORMAT, backup.service, backup.file):
        raise BackupError(
            f"{folder} is no backup of the {backup.service} that this version of Podbay reads. "
            "Nothing was changed."
        )
    copy = folder / backup.file
    if not copy.is_file() or _sha256(copy) != digest:
        raise BackupError(
            f"The backup {folder} is damaged: {copy.name} is not what was saved. Nothing was "
            "changed. Use another backup."
        )
    return copy


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()


def _clear(data: Path, *, itself: bool) -> None:
    """Remove what a failed load has made."""
    for entry in data.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    if itself:
        os.rmdir(data)
