"""Which registry keeps the files of models.

Files lie in a folder, rows in a database that several registries may share. A registry that has
another folder than that of the files would find them gone, and one that has the same folder would
remove what another one is about to write down. So one registry keeps them:

- The folder says whose files it holds, from the first start of the installation on. One that does
  not say so holds none, unless the operator says that it shall.
- Of several registries with that folder, one holds its lock; when it ends, another takes over.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from pathlib import Path
from typing import Final, NoReturn

from podbay_kit.process import SettingsError, write_private
from podbay_registry.file_errors import files_elsewhere

__all__ = ["MARKER", "FileKeeper"]

_LOG = logging.getLogger(__name__)

MARKER: Final = "installation"
"""The file in the folder that says whose files it holds."""

_LOCK: Final = "lock"
_LOOK_SECONDS: Final = 1.0
# An earlier process may be on its way out.
_PATIENCE_SECONDS: Final = 15.0


class FileKeeper:
    """Says whether this registry keeps the files. To be used on one event loop.

    Args:
        root: The folder of the files.
        shared: Whether other registries may use the same database.
    """

    def __init__(self, root: Path, *, shared: bool) -> None:
        self._root = root
        self._shared = shared
        self._lock: int | None = None
        self._is_candidate = False
        self.keeping: Final = asyncio.Event()
        """Set once this registry keeps the files, for as long as it runs."""

    def check(self) -> None:
        """Return where this registry keeps the files.

        Raises:
            ServiceError: MODEL_FILES_ELSEWHERE.
        """
        if not self.keeping.is_set():
            raise files_elsewhere()

    def said(self) -> str:
        """Return the id of the installation whose files the folder holds; "" where it says none.

        Raises:
            SettingsError: It cannot be read.
        """
        marker = self._root / MARKER
        try:
            return marker.read_text(encoding="ascii").strip() if marker.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise self._unusable(error) from error

    def refuse_new(self, said: str) -> NoReturn:
        """Raise the error of a database that is new, beside the files of an earlier one."""
        raise self._foreign(said, "has none yet")

    def prepare(self, installation: str, *, is_new: bool, take: bool) -> None:
        """Find out whether the folder is that of the installation. It blocks on files.

        Args:
            installation: The id of the installation.
            is_new: Whether it began with this start: then this folder is its own.
            take: Whether the folder is its own because the operator says so.

        Raises:
            SettingsError: It is the folder of another installation, or cannot be used.
        """
        said = self.said()
        try:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Folders of earlier releases say nothing; with SQLite there is only one.
            if take or (not said and (is_new or not self._shared)):
                write_private(self._root / MARKER, f"{installation}\n")
                said = installation
        except OSError as error:
            raise self._unusable(error) from error
        if said and said != installation:
            raise self._foreign(said, f"is of {installation}")
        self._is_candidate = said == installation
        if not self._is_candidate:
            _LOG.info("this registry does not keep the files of models: another one does")

    async def take_alone(self) -> None:
        """Take the folder where no other registry may be, as with SQLite.

        Raises:
            SettingsError: Another one has it.
        """
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self.turn()
        except TimeoutError:
            raise SettingsError(
                f"Another registry uses {self._root}. Stop it, or choose another --data-dir."
            ) from None

    async def turn(self) -> None:
        """Return when this registry holds the lock of its folder; never, where it has none."""
        if not self._is_candidate:
            await asyncio.Event().wait()
        waited = False
        while not await asyncio.to_thread(self.try_lock):
            if not waited:
                _LOG.info("another registry keeps the files of models; this one waits for its end")
            waited = True
            await asyncio.sleep(_LOOK_SECONDS)

    def try_lock(self) -> bool:
        """Take the lock of the folder, and say whether this registry has it now."""
        if not self._is_candidate or self._lock is not None:
            return self._lock is not None
        file = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._lock = file
        return True

    def close(self) -> None:
        """Give the folder up."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _unusable(self, error: Exception) -> SettingsError:
        return SettingsError(
            f"The folder of models' files {self._root} cannot be used "
            f"({type(error).__name__}). Check its permissions."
        )

    def _foreign(self, said: str, database: str) -> SettingsError:
        return SettingsError(
            f"The folder {self._root} holds the files of another installation ({said}; the "
            f"database {database}), and nothing was removed. Restore a backup of its database, or "
            "move the folder away, or start once with --keep-model-files (podbay up has it, too), "
            "which removes what the database does not know."
        )
