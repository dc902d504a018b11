"""Ports for services: which are free, who has one, and which to choose."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Collection
from pathlib import Path

from podbay.local.faults import LocalError
from podbay.local.processes import psutil_module

__all__ = [
    "choose_port",
    "ephemeral_ports",
    "is_free",
    "join",
    "port_owner",
    "split",
    "stable_ports",
]

_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
# IANA's range, where the system does not tell its own.
_DEFAULT_EPHEMERAL = range(49152, 65536)
_LOWEST = 10_000
_TRIES = 200


def join(host: str, port: int) -> str:
    """Write an address as "host:port", with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(address: str) -> tuple[str, int]:
    """Read an address as `join` writes it, with a port from 1 on.

    Raises:
        ValueError: It is none.
    """
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 host needs brackets")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ValueError("not host:port")
    return host, int(port)


def ephemeral_ports() -> range:
    """Return the ports that the system gives to outgoing connections."""
    try:
        low, high = _RANGE_FILE.read_text().split()
    except (OSError, ValueError):
        return _DEFAULT_EPHEMERAL
    return range(int(low), int(high) + 1)


def stable_ports(ephemeral: range) -> list[int]:
    """Return the ports that no outgoing connection can take while a service restarts."""
    ports = [port for port in range(_LOWEST, 65536) if port not in ephemeral]
    return ports or list(range(_LOWEST, 65536))


def is_free(host: str, port: int) -> bool:
    """Return whether a server can listen on a port now.

    Raises:
        LocalError: The host is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: connections that wait for their end do not hinder.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except PermissionError:
        return False
    except socket.gaierror as error:
        raise _bad_host(host) from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise _bad_host(host) from error
        return False
    return True


def choose_port(host: str, taken: Collection[int] = ()) -> int:
    """Choose a free port outside the system's ephemeral range.

    A port inside it could be taken by any outgoing connection between a service's end and its
    restart.

    Raises:
        LocalError: No free port was found.
    """
    candidates = [port for port in stable_ports(ephemeral_ports()) if port not in taken]
    for port in random.sample(candidates, min(_TRIES, len(candidates))):
        if is_free(host, port):
            return port
    raise LocalError(
        "PORT_TAKEN",
        f"no free port was found on {host} in {_TRIES} tries",
        way_out="name free ports with --registry-port, --session-manager-port and "
        "--inference-router-port",
    )


def port_owner(port: int) -> str:
    """Say who listens on a port, as far as this user may see it; "" where nobody is visible."""
    psutil = psutil_module()
    try:
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr.port == port
                and connection.pid
            ):
                return f"{psutil.Process(connection.pid).name()}, process {connection.pid}"
    except (psutil.Error, OSError):
        return ""
    return ""


def _bad_host(host: str) -> LocalError:
    return LocalError(
        "INVALID_HOST",
        f"{host!r} is no address of this machine",
        way_out="name an address of this machine with --host, or leave it out for 127.0.0.1",
    )
