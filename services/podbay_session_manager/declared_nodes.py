"""Nodes as operators declare them: machines with a container engine, and what they have. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["DeclaredGpu", "DeclaredNode", "EngineTls"]


@dataclass(frozen=True, slots=True)
class DeclaredGpu:
    """A GPU of a node."""

    id: str
    """How the engine knows it: its index, as "0", or its UUID, as "GPU-..."."""
    hardware_type: str
    """What sessions ask for, as "nvidia.com/gpu-t4"."""
    memory_bytes: int = 0
    """Its memory; 0 where that is not told."""


@dataclass(frozen=True, slots=True)
class EngineTls:
    """The files of a TLS connection to an engine, as paths on the session manager's machine."""

    ca: str
    cert: str
    key: str


@dataclass(frozen=True, slots=True)
class DeclaredNode:
    """A machine with a container engine."""

    name: str
    engine: str
    """The engine's address: "unix:///run/docker.sock", "ssh://user@host" or "tcp://host:2376"."""
    tls: EngineTls | None = None
    """Required for tcp:// to another machine."""
    address: str = ""
    """The host at which the node's replicas are reached; empty for the containers' own addresses,
    where the routers run on the node."""
    gpus: tuple[DeclaredGpu, ...] = ()
    cpus: float = 0.0
    """The processors that replicas may use; 0 for what the engine tells."""
    memory_bytes: int = 0
    """The memory that replicas may use; 0 for what the engine tells."""
    spot: bool = False
    """Whether the machine may be taken away at any time."""
    labels: Mapping[str, str] = field(default_factory=dict)
