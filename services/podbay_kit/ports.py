"""Ports that several sockets share, and that nobody else gets into."""

from __future__ import annotations

import socket

from podbay_kit.starting import ListenError, join_address, split_address

__all__ = ["hold_port"]


def hold_port(listen: str, *, shared: bool = False) -> tuple[socket.socket, str]:
    """Make sure that nobody has the address, and keep it for sockets that share it.

    The kernel would let any process of the same user share a port that all sides opened for
    sharing. So the port is first opened without that, and handed over while it is open. The socket
    that then holds it never listens, so no connection goes to it.

    Args:
        listen: The address, as "127.0.0.1:0".
        shared: Whether others have it by right, and share it for a while.

    Returns:
        The socket, which must stay open, and the address with its real port.

    Raises:
        ListenError: The address cannot be had.
    """
    host, port = split_address(listen)
    holder: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as claim:
            if not shared:
                claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                claim.bind(address)
                claim.listen(1)
                claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                address = claim.getsockname()
            holder = socket.socket(family, kind, protocol)
            # What is left of the connections of an earlier process is not in the way ...
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind(address)
            # ... and whoever claims the port later finds it taken, also before anybody listens.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError as error:
        if holder is not None:
            holder.close()
        raise ListenError(
            f"Cannot listen on {listen}: the port is taken, or the address is not one of this "
            "machine. Choose another port, or 0 for a free one."
        ) from error
    return holder, join_address(host, holder.getsockname()[1])
