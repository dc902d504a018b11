"""The log file of one service: appended by the service, capped by its supervisor."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["LogFile"]

_TAIL_BYTES = 64 * 1024


class LogFile:
    """A file that a child process appends to, and that does not grow for ever.

    Args:
        path: The file. The part before it was last capped is kept beside it, as "NAME.1".
        limit: The size in bytes above which the file is capped.
    """

    def __init__(self, path: Path, *, limit: int = 10 * 1024 * 1024) -> None:
        self.path = path
        self._limit = limit
        self._run_start = 0

    def open_for_run(self) -> int:
        """Open the file for a new run of the service, and return the descriptor.

        It is opened for appending, so that a write after a cap goes to the new end.
        """
        self.cap()
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._run_start = os.fstat(handle).st_size
        return handle

    def tail(self, lines: int) -> tuple[str, ...]:
        """Return the last lines of the present run."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                # A file that is shorter than the run's start was capped during the run.
                start = self._run_start if self._run_start <= size else 0
                file.seek(max(start, size - _TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return ()
        return tuple(text.splitlines()[-lines:])

    def cap(self) -> bool:
        """Move the content aside where the file is too large, and return whether it was.

        The service keeps the file open, so its content is copied and the file is emptied: what
        is written in between those two is lost.
        """
        try:
            if self.path.stat().st_size <= self._limit:
                return False
            shutil.copyfile(self.path, self.path.with_name(self.path.name + ".1"))
            os.truncate(self.path, 0)
        except OSError:
            return False  # not there yet, or no room for the copy: tried again later
        self._run_start = 0
        return True
