"""A port of loopback that is free now."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
