"""Marks by which it is known on one machine that a session manager's process has ended.

A holder of the lease on this machine has a file that it keeps locked. The kernel takes the lock
back when the process ends, however it ends, and not while it is only stopped. So a crash on the
same machine need not be waited for as long as a silence from another one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

__all__ = ["LifeMarks"]


class LifeMarks:
    """The marks of the session managers that share a folder, and this one's own.

    Args:
        folder: Where they are; on a disk of this machine.
        holder: The name of this process, which nobody else ever has.
    """

    def __init__(self, folder: Path, holder: str) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._holder = holder
        self._own = os.open(self._path(holder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._own, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def is_dead(self, holder: str) -> bool:
        """Say whether it is known that a process has ended; False where nothing is known of it."""
        if holder == self._holder:
            # Of an earlier term of this very process.
            return True
        try:
            file = os.open(self._path(holder), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(file)
        return True

    def clean(self) -> None:
        """Remove the marks of processes that have ended, once none of them holds the lease."""
        for path in self._folder.glob("*.life"):
            if path.stem != self._holder and self.is_dead(path.stem):
                path.unlink(missing_ok=True)

    def close(self, *, keep: bool = False) -> None:
        """Give up this process's mark.

        Args:
            keep: Whether the file stays, as this process may still be named as the holder.
        """
        if not keep:
            with contextlib.suppress(OSError):
                self._path(self._holder).unlink()
        os.close(self._own)

    def _path(self, holder: str) -> Path:
        return self._folder / f"{holder}.life"
