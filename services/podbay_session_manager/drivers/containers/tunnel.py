"""An engine's socket on another machine, brought here by the ssh of this machine.

The user's own configuration, keys and known hosts hold. Nobody is asked for anything: a key with a
passphrase needs an agent, and an unknown host is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from podbay_session_manager.drivers.contract import DriverUnreachableError

__all__ = ["SshTunnel"]

_START_SECONDS: Final = 15.0
_STOP_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 0.02
_REMOTE_SOCKET: Final = "/var/run/docker.sock"
_OPTIONS: Final = (
    "BatchMode=yes",
    "ConnectTimeout=5",
    "ExitOnForwardFailure=yes",
    # A connection that died in silence is given up after 15 s.
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "StreamLocalBindMask=0177",
    "StreamLocalBindUnlink=yes",
)
_PR_SET_PDEATHSIG: Final = 1


class SshTunnel:
    """A tunnel that is made when it is needed, and made again when it broke.

    Args:
        address: The engine, as "ssh://user@host:22"; a path after it names another socket.
        options: Further arguments of ssh, as ("-F", "file").
    """

    def __init__(self, address: str, options: Sequence[str] = ()) -> None:
        parts = urlsplit(address)
        self._address = address
        host = parts.hostname or ""
        self._target = f"{parts.username}@{host}" if parts.username else host
        self._port = parts.port
        self._remote = parts.path if len(parts.path) > 1 else _REMOTE_SOCKET
        self._options = tuple(options)
        # Short, whatever the data directory's path: that of a socket may have 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="podbay-ssh-"))
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    @property
    def url(self) -> str:
        """The address of the engine at this end."""
        return f"unix://{self._socket}"

    @property
    def _socket(self) -> Path:
        return self._folder / "docker.sock"

    async def ensure(self) -> None:
        """Return when the tunnel is there.

        Raises:
            DriverUnreachableError: It cannot be made; the text says what ssh said.
        """
        if self._process is not None and self._process.returncode is None:
            return
        async with self._lock:
            if self._process is None or self._process.returncode is not None:
                await self._start()

    async def close(self) -> None:
        """End it."""
        async with self._lock:
            await self._stop()
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _start(self) -> None:
        arguments = [
            *self._options,
            *(part for option in _OPTIONS for part in ("-o", option)),
            *(("-p", str(self._port)) if self._port else ()),
            "-N",
            "-T",
            "-L",
            f"{self._socket}:{self._remote}",
            "--",
            self._target,
        ]
        self._socket.unlink(missing_ok=True)
        errors = self._folder / "errors"
        try:
            with errors.open("wb") as file:
                self._process = await asyncio.create_subprocess_exec(
                    "ssh",
                    *arguments,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=file,
                    preexec_fn=_end_with_parent,
                )
        except OSError as error:
            raise DriverUnreachableError(
                f"The engine {self._address} needs ssh, which cannot be run: {error.strerror}."
            ) from error
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not self._socket.exists():
                    if self._process.returncode is not None:
                        break
                    await asyncio.sleep(_PAUSE_SECONDS)
                else:
                    return
        except TimeoutError:
            await self._stop()
        except asyncio.CancelledError:
            await self._stop()
            raise
        said = errors.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
        raise DriverUnreachableError(
            f"The engine {self._address} cannot be reached. ssh said: {said[0][:300]}"
        )

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _end_with_parent() -> None:
    """Let ssh end with the session manager, also where that is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
