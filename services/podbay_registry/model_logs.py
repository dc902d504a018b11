"""What was written while models were fetched and uploaded: a file of lines for each."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from podbay_kit.clock import Clock

__all__ = ["ModelLogs"]

_LOG = logging.getLogger(__name__)

_MAX_BYTES: Final = 1 << 20
_MAX_LINE: Final = 2000


class ModelLogs:
    """Keeps logs, each with its newest lines: half a MiB at least, one at most. Blocking.

    Args:
        root: The folder.
        clock: Where the time comes from.
    """

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root
        self._clock = clock

    def write(self, model: str, text: str) -> None:
        """Add the lines of a text, each with the time.

        A disk that takes no more must not end what the log tells of.
        """
        try:
            self._write(model, text)
        except OSError as error:
            _LOG.warning("the log of the model %s cannot be written: %s", model, error.strerror)

    def _write(self, model: str, text: str) -> None:
        stamp = f"{self._clock.now():%Y-%m-%dT%H:%M:%SZ}"
        lines = "".join(f"{stamp} {line[:_MAX_LINE]}\n" for line in text.splitlines())
        path = self._path(model)
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.exists() and path.stat().st_size + len(lines) > _MAX_BYTES // 2:
            path.replace(self._old(model))
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(lines)

    def read(self, model: str) -> Iterator[str]:
        """Yield the lines, oldest first."""
        for path in (self._old(model), self._path(model)):
            try:
                file = path.open(encoding="utf-8", errors="replace")
            except FileNotFoundError:
                continue
            with file:
                for line in file:
                    yield line.rstrip("\n")

    def remove_others(self, models: frozenset[str]) -> None:
        """Remove the logs of models that are gone."""
        if not self._root.is_dir():
            return
        for path in self._root.iterdir():
            if path.name.partition(".")[0] not in models:
                path.unlink(missing_ok=True)

    def _path(self, model: str) -> Path:
        return self._root / f"{model}.log"

    def _old(self, model: str) -> Path:
        return self._root / f"{model}.old.log"
