"""What the process that fetches tells the registry."""

from __future__ import annotations

import errno
import json
import threading
from typing import Any, Final, TextIO

from podbay_registry.fetch_plan import FetchFailure

__all__ = ["Events", "os_failure"]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Events:
    """Writes events, each as a line of JSON.

    Args:
        out: Where to.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()

    def total(self, size: int, files: int) -> None:
        """Tell how much there is to fetch."""
        self._write(event="total", bytes=size, files=files)

    def log(self, text: str) -> None:
        """Tell what is going on."""
        self._write(event="log", text=text)

    def file(self, path: str, sha256: str | None = None) -> None:
        """Tell of a file that was fetched, and of its digest where the source says it."""
        self._write(event="file", path=path, sha256=sha256)

    def failed(self, failure: FetchFailure) -> None:
        """Tell why it failed."""
        self._write(event="failed", message=failure.message, transient=failure.transient)

    def done(self) -> None:
        """Tell that all files were told."""
        self._write(event="done")

    def _write(self, **event: Any) -> None:
        with self._lock:
            self._out.write(json.dumps(event) + "\n")
            self._out.flush()


def os_failure(error: OSError) -> FetchFailure:
    """Return the failure of what the machine refused."""
    if error.errno in _FULL:
        return FetchFailure(
            "The disk of the registry's data directory is full. Make room there, or delete models, "
            "and create the model again."
        )
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return FetchFailure(f"The registry's machine refused to go on ({name}): {error.strerror}.")
