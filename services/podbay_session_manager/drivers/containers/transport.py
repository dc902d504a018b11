"""Connections beneath docker-py: closed when they should be, and in bounded time.

Imported only where docker-py is: requests and urllib3 come with it.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

import requests
import urllib3
import urllib3.connection

__all__ = ["cut", "unix_pool", "what_happened"]

_CONNECTIONS = 8


def unix_pool(path: str, timeout: float) -> urllib3.HTTPConnectionPool:
    """Return connections to a socket that are used again and again.

    docker-py makes a new one for nearly every call, and leaks those that fail.
    """

    class Connection(urllib3.connection.HTTPConnection):
        def connect(self) -> None:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            made.settimeout(timeout)
            try:
                made.connect(path)
            except BaseException:
                made.close()
                raise
            self.sock = made

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    return Pool("localhost", timeout=timeout, maxsize=_CONNECTIONS)


def cut(response: requests.Response) -> None:
    """Close the connection of an answer that is perhaps still being read by another thread."""
    connection: Any = getattr(response.raw, "_connection", None)
    made = getattr(connection, "sock", None)
    if made is not None:
        with suppress(OSError):
            made.shutdown(socket.SHUT_RDWR)
    with suppress(Exception):
        # The reader has met the end; what it makes of that does not matter any more.
        response.close()
    if connection is not None:
        with suppress(Exception):
            connection.close()


def what_happened(error: Exception, timeout: float) -> str:
    """Return what became of a connection, for people; the text goes on from "The engine at X"."""
    silent = requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError
    if isinstance(error, silent) or "timed out" in str(error).lower():
        return f"did not answer within {timeout:g} s."
    for cause, what in (
        ("FileNotFoundError", "is not there: there is no such socket."),
        ("ConnectionRefusedError", "refuses connections: nothing listens there."),
        ("PermissionError", "may not be used by this user."),
        ("SSLError", "cannot be reached over TLS: check its certificates."),
        ("Name or service not known", "cannot be found: its host has no address."),
    ):
        if cause in repr(error):
            return what
    return "closed the connection, or cannot be reached."
