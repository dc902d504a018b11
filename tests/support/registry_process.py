"""A registry in a process of its own: one that can be killed, and whose memory can be measured."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.support.eventually import eventually_sync
from tests.support.registry import SERVICE_TOKEN

__all__ = ["RegistryProcess"]


class RegistryProcess:
    """A registry over a folder.

    Args:
        folder: Where it keeps everything.
        *options: Further options of its command line.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._options = options
        self._address_file = folder / "address.json"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Where it serves; the same after a restart."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def token(self) -> str:
        """The administrator's token."""
        return (self.folder / "registry/admin-token").read_text().strip()

    @property
    def blobs(self) -> Path:
        """The folder of the contents."""
        return self.folder / "registry/models/blobs"

    def start(self, **popen: Any) -> None:
        """Start it, and wait until it listens."""
        secret = self.folder / "service-token"
        secret.write_text(SERVICE_TOKEN)
        secret.chmod(0o600)
        self._address_file.unlink(missing_ok=True)
        log = (self.folder / "registry.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "podbay_registry", "--exit-with-parent"),
                    *("--listen", f"127.0.0.1:{self._port}"),
                    *("--data-dir", str(self.folder / "registry")),
                    *("--service-token-file", str(secret)),
                    *("--address-file", str(self._address_file)),
                    *("--drain-seconds", "2"),
                    *self._options,
                ],
                stderr=log,
                **popen,
            )
        process = self._process
        eventually_sync(
            lambda: self._address_file.exists() or process.poll() is not None, "the registry"
        )
        assert process.poll() is None, (self.folder / "registry.log").read_text()
        self._port = int(json.loads(self._address_file.read_text())["address"].rpartition(":")[2])

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it, and wait for its end."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=30)
            self._process = None

    def kill(self) -> None:
        """End it as a crash does."""
        self.stop(signal.SIGKILL)
