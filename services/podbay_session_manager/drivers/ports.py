"""Ports for replicas on this machine."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection
from typing import Final

import psutil

from podbay_session_manager.drivers.contract import StartFailedError
from podbay_session_manager.records import Reason

__all__ = ["HOST", "PortPicker"]

HOST: Final = "127.0.0.1"
# Below the range out of which the system takes ports for outgoing connections: a port that is
# free now is not taken by a connection a moment later.
_FIRST: Final = 20000
_LAST: Final = 32000
_TRIES: Final = 400


class PortPicker:
    """Finds ports that are free and not promised to anybody.

    Args:
        seed: Makes the choice repeatable; random unless given.
    """

    def __init__(self, seed: int | None = None) -> None:
        # Not for secrets: spread, so that a port is not used again soon.
        self._random = random.Random(seed)  # noqa: S311

    def pick(self, used: Collection[int]) -> int:
        """Return a free port that is not in `used`.

        Raises:
            StartFailedError: START_FAILED, where none is found.
        """
        for _ in range(_TRIES):
            port = self._random.randrange(_FIRST, _LAST)
            if port not in used and _is_free(port):
                return port
        raise StartFailedError(
            Reason.START_FAILED,
            f"No free port was found on {HOST} between {_FIRST} and {_LAST} in {_TRIES} tries. "
            "Terminate sessions that are not needed, or stop what listens there.",
        )

    def claim(self, port: int, used: Collection[int]) -> int:
        """Return a port that the service insists on.

        Raises:
            StartFailedError: PORT_TAKEN, naming who has it where that can be seen.
        """
        if port not in used and _is_free(port):
            return port
        raise StartFailedError(
            Reason.PORT_TAKEN,
            f"Port {port} on {HOST}, which the service asks for in its env (PORT), is taken by "
            f"{_holder(port)}. Stop that, give the service another PORT, or leave PORT out so "
            "that each replica gets a free one.",
        )


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Connections of the past that linger do not count, only who listens.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return "another process"
    for connection in connections:
        local = connection.laddr
        if connection.status != psutil.CONN_LISTEN or not local or local[1] != port:
            continue
        if connection.pid is None:
            return "a process of another user"
        try:
            return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
        except psutil.Error:
            return f"process {connection.pid}"
    return "another process"
