"""An outside for containers: a machine, in a network namespace, that they reach over their node."""

from __future__ import annotations

import subprocess
from types import TracebackType
from typing import Self

from tests.support.docker.slots import Slot

_SERVER = """
import socket, sys
server = socket.create_server((sys.argv[1], 7777))
print("up", flush=True)
while True:
    connection, (host, _) = server.accept()
    print(host, flush=True)
    connection.close()
"""


class Outside:
    """A listener in a network namespace of its own."""

    def __init__(self, slot: Slot) -> None:
        self._name = f"{slot.bridge_prefix}out"
        self._address = f"{slot.network}.240.2"
        self._gateway = f"{slot.network}.240.1"
        self._process: subprocess.Popen[str] | None = None

    @property
    def target(self) -> str:
        """Where it listens, as "10.200.240.2:7777"."""
        return f"{self._address}:7777"

    def __enter__(self) -> Self:
        link = self._name
        _run("ip", "netns", "add", link)
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", link)
        _run("ip", "addr", "add", f"{self._gateway}/30", "dev", link)
        _run("ip", "link", "set", link, "up")
        _run("ip", "-n", link, "addr", "add", f"{self._address}/30", "dev", "eth0")
        _run("ip", "-n", link, "link", "set", "eth0", "up")
        _run("ip", "-n", link, "route", "add", "default", "via", self._gateway)
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", link, "python3", "-c", _SERVER, self._address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "up\n"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        _run("ip", "link", "del", self._name)
        _run("ip", "netns", "del", self._name)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
