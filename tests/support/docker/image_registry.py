"""A registry of images on loopback: Debian's docker-registry."""

from __future__ import annotations

import http.client
import subprocess
import time
from pathlib import Path

from tests.support.docker.free_port import free_port

_CONFIG = """\
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {folder}/blobs}}
http:
  addr: 127.0.0.1:{port}
"""
_START_SECONDS = 20.0


class ImageRegistry:
    """A registry; `stop` and `start` take it away and bring it back at the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()
        folder.mkdir(parents=True)
        self.start()

    @property
    def host(self) -> str:
        """Its name in the names of images."""
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it where it does not run, and return when it answers."""
        if self._process is not None:
            return
        config = self._folder / "config.yml"
        config.write_text(_CONFIG.format(folder=self._folder, port=self._port))
        with (self._folder / "registry.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._folder / "registry.log").read_text()[-2000:])
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it; nothing listens at its address then."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=2)
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()
