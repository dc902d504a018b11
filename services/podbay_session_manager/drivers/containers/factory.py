"""Makes the drivers of declared nodes."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from podbay_kit.process import SettingsError
from podbay_session_manager.declared_nodes import DeclaredNode
from podbay_session_manager.drivers.containers.driver import DockerDriver
from podbay_session_manager.drivers.containers.engine import check_installed
from podbay_session_manager.drivers.containers.settings import DockerSettings
from podbay_session_manager.drivers.contract import ReplicaDriver

__all__ = ["check_engine", "make_docker_driver"]


def make_docker_driver(node: DeclaredNode, settings: DockerSettings) -> ReplicaDriver:
    """Return the driver of a node; nothing is asked of its engine yet.

    Raises:
        SettingsError: docker-py is not installed, or the engine's address is none.
    """
    check_installed()
    check_engine(node)
    return DockerDriver(node, settings)


def check_engine(node: DeclaredNode) -> None:
    """Let an engine's address pass. Pure.

    Raises:
        SettingsError: It is none, or not safe to use.
    """
    parts = urlsplit(node.engine)
    if parts.scheme == "unix" and parts.path.startswith("/"):
        return
    if parts.scheme == "ssh" and parts.hostname and not parts.hostname.startswith("-"):
        return
    if parts.scheme == "tcp" and parts.hostname and parts.port:
        if node.tls is None and not _is_loopback(parts.hostname):
            raise SettingsError(
                f"The engine {node.engine} of node {node.name} is on another machine and has no "
                "TLS: whoever reaches it owns that machine. Give the node its certificates (tls), "
                "or reach the engine by ssh://."
            )
        return
    raise SettingsError(
        f"The engine {node.engine!r} of node {node.name} is no address of an engine. Write "
        "unix:///run/docker.sock, ssh://user@host or tcp://host:2376."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
