"""Taking a replica's port."""

import errno
import socket

from podbay_kit.replica_server.errors import BindFailedError, PortTakenError

__all__ = ["bind", "bind_error"]


def bind(host: str, port: int) -> socket.socket:
    """Take a port, without listening on it yet: connections are refused until then.

    Args:
        host: An address of this machine.
        port: The port; 0 takes a free one.

    Raises:
        PortTakenError: If another socket listens on the port.
        BindFailedError: If it cannot be had for another reason.
    """
    # Named as TCP, and not left to the system: only where asyncio sees the name does it send small
    # pieces at once (TCP_NODELAY), and an answer in two pieces would wait 40 ms for the second.
    listener = socket.socket(
        socket.AF_INET6 if ":" in host else socket.AF_INET,
        socket.SOCK_STREAM,
        socket.IPPROTO_TCP,
    )
    try:
        # Lets a new replica take the port of one that has just ended.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise bind_error(host, port, error) from error
    return listener


def bind_error(host: str, port: int, error: OSError) -> PortTakenError | BindFailedError:
    """Say why an address cannot be had."""
    if error.errno == errno.EADDRINUSE:
        return PortTakenError(
            f"port {port} of {host} is taken; stop what listens there, or choose another PORT"
        )
    return BindFailedError(f"cannot listen on port {port} of {host}: {error.strerror or error}")
