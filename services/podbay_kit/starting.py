"""How a start fails, and addresses: for processes that serve nothing by themselves, too.

Nothing here imports gRPC: a process that only starts and watches others stays small.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["ListenError", "StartError", "join_address", "split_address", "uncollected"]


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


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Import without looking for garbage, and never look for it in what was imported.

    Modules stay for as long as the process does. To look through them again and again while they
    come takes a tenth of a start, and later each full collection would go through all of them.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
