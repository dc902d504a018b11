"""The log of one hosted replica, in files that the session manager reads.

Each file is named by the position of its first byte, as the keeper of process replicas does it; the
newest two are kept, so a mock that floods its log does not fill the disk.
"""

import contextlib
import logging
from pathlib import Path

__all__ = ["ReplicaLog"]

_FILE_BYTES = 5 << 20


class ReplicaLog(logging.Handler):
    """Writes what is logged about a replica, and what it is told.

    Args:
        folder: Where the files lie; made where there is none.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._folder = folder
        self._base = 0
        self._size = 0
        self._written: list[Path] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record with its traceback."""
        self.write(self.format(record))

    def write(self, text: str) -> None:
        """Write lines. A disk that is full costs the lines, not the replica."""
        data = f"{text}\n".encode(errors="backslashreplace")
        with self.lock or contextlib.nullcontext(), contextlib.suppress(OSError):
            if not self._written or self._size + len(data) > _FILE_BYTES:
                self._next_file()
            with self._written[-1].open("ab") as file:
                file.write(data)
            self._size += len(data)

    def _next_file(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._base += self._size
        self._size = 0
        self._written.append(self._folder / f"{self._base:020d}")
        while len(self._written) > 2:
            self._written.pop(0).unlink(missing_ok=True)
