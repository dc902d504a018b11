"""How the workers of a router that died serve on until those of the next one do.

Only where something starts the router again, and ends it together with itself, as `podbay up`
does. The workers of both share the port and, by a file that has a name, the limits of replicas.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import uuid
from pathlib import Path
from typing import Final

from podbay_kit.process import process_end, write_private

__all__ = ["SERVE_ON_SECONDS", "Afterlife", "Succession"]

SERVE_ON_SECONDS: Final = 30.0
"""How long workers serve on where no other router comes to serve."""

# Nobody tells workers of another router's: they look.
_LOOK_SECONDS: Final = 0.05
_WORKERS: Final = "workers"
_SERVING: Final = "serving"
_LEASES: Final = "leases"


class Succession:
    """A router's place in the line of those that use one folder after the other.

    Args:
        folder: The folder, which no other router uses at this moment.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.run: Final = uuid.uuid4().hex
        """Names this router among those before and after it."""
        self._file = os.open(folder / _WORKERS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.takes_over: Final = not self._try_lock()
        """Whether workers of an earlier router still serve."""
        # Workers have the same open file: the lock is held until the last of them has ended.
        fcntl.flock(self._file, fcntl.LOCK_SH)

    @property
    def leases(self) -> Path:
        """The file by which all workers share limits."""
        return self._folder / _LEASES

    def fileno(self) -> int:
        """Return the descriptor that workers are to inherit."""
        return self._file

    def serving(self) -> None:
        """Tell the workers of an earlier router that they are not needed any more."""
        write_private(self._folder / _SERVING, self.run)

    def close(self) -> None:
        """Leave the line."""
        os.close(self._file)

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class Afterlife:
    """What a worker waits for when the router that started it has died.

    Args:
        folder: The router's folder.
        run: The router's name in it.
        supervisor: The process that starts the router again.
    """

    def __init__(self, folder: Path, run: str, supervisor: int) -> None:
        self._file = folder / _SERVING
        self._run = run
        self._supervisor = supervisor
        self.listens = False
        """Whether the worker takes calls: one that does not has nothing to wait for."""

    async def wait(self) -> None:
        """Return when another router serves, or none is to be expected."""
        if not self.listens:
            return
        ends = [
            asyncio.create_task(self._succeeded(), name="await-successor"),
            asyncio.create_task(
                process_end(self._supervisor, lambda: _lives(self._supervisor)),
                name="await-supervisor",
            ),
        ]
        try:
            await asyncio.wait(ends, timeout=SERVE_ON_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def _succeeded(self) -> None:
        before = self._last()
        while (last := self._last()) == before or last == self._run:  # noqa: ASYNC110 # see above
            await asyncio.sleep(_LOOK_SECONDS)

    def _last(self) -> str:
        # None has served yet where there is no such file.
        with contextlib.suppress(FileNotFoundError):
            return self._file.read_text(encoding="ascii")
        return ""


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
