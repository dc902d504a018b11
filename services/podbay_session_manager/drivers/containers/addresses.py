"""The address of a node at which its replicas' ports are published."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from podbay_session_manager.drivers.contract import StartFailedError
from podbay_session_manager.records import Reason

__all__ = ["published_at"]


async def published_at(node: str, address: str) -> str:
    """Return the IP address that a node's engine is told to publish ports at.

    An engine takes what is no IP address for all addresses that it has, and says nothing.

    Args:
        node: The name of the node.
        address: Its address as it was declared: an IP address or the name of a host; empty where
            nothing is published.

    Raises:
        StartFailedError: The name has no address, or the address is that of any machine.
    """
    if not address:
        return ""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        found = await _resolved(node, address)
    if found.is_unspecified or found.is_multicast:
        raise StartFailedError(
            Reason.START_FAILED,
            f"The address {address} of node {node} is no machine's own, and ports would be "
            "published at all addresses. Declare the one at which the routers reach the node.",
        )
    return str(found)


async def _resolved(node: str, name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(str(one[4][0]).partition("%")[0]) for one in found]
        # Networks of containers have addresses of IPv4 in any case.
        return min(addresses, key=lambda one: one.version)
    except (OSError, UnicodeError, ValueError) as error:
        raise StartFailedError(
            Reason.START_FAILED,
            f"The address {name!r} of node {node} is a name, and no IP address of it was found: "
            f"{error}. Mend the name, or declare the node by its IP address.",
        ) from error
