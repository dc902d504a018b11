"""How a start fails, and addresses: for processes that serve nothing by themselves, too.

Nothing here imports gRPC: a process that only starts and watches others stays small.
"""

from __future__ import annotations

__all__ = ["ListenError", "StartError", "join_address", "split_address"]


class StartError(Exception):
    """A service cannot start; the text says why and what to do. It is shown as it is."""


class ListenError(StartError):
    """A server cannot listen on its address; the text says why and what to do."""


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of "host:port" or "[v6]:port".

    Raises:
        ValueError: The address has another form.
    """
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is not of the form HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    """Return "host:port", or "[v6]:port"."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
