"""Nodes as operators declare them: machines with a container engine, and what they have."""

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic.alias_generators import to_camel

from podbay.schema._base import RequestModel
from podbay.schema._quantity import NonNegativeQuantity, quantity_to_decimal, quantity_to_int

__all__ = ["EngineTls", "GpuDeclaration", "NodeDeclaration", "NodesFile"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LEAST_MEMORY = 1 << 20
_QUANTITY = re.compile(r"[+-]?[0-9.]+([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9.]+)?")
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\.?")

_Text = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
_Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,252}$")]
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-.a-z0-9]{0,61}[a-z0-9])?$")]


class _NodeModel(RequestModel):
    model_config = ConfigDict(
        strict=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )


def _as_quantity(value: Any) -> Any:
    """Takes a plain number as a quantity, as files have it; says what one is where it is none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value}"
    if isinstance(value, str) and not _QUANTITY.fullmatch(value):
        raise ValueError("is not a quantity: write a number and a suffix, as 500m or 64Gi")
    return value


class GpuDeclaration(_NodeModel):
    """A GPU of a node."""

    # How the engine knows it: its index, as "0", or its UUID, as "GPU-...".
    id: _Id
    # What sessions ask for, as "nvidia.com/gpu-t4".
    hardware_type: _Id
    memory: NonNegativeQuantity | None = None

    @field_validator("id", mode="before")
    @classmethod
    def _read_index(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    _read_memory = field_validator("memory", mode="before")(_as_quantity)

    @field_validator("memory")
    @classmethod
    def _check_memory(cls, memory: str | None) -> str | None:
        if memory is not None:
            _check_bytes(memory)
        return memory


class EngineTls(_NodeModel):
    """The files of a TLS connection, as paths on the session manager's machine."""

    ca: _Text
    cert: _Text
    key: _Text


class NodeDeclaration(_NodeModel):
    """A machine with a container engine."""

    name: _Name
    # unix:///run/docker.sock, ssh://user@host or tcp://host:2376
    engine: _Text
    tls: EngineTls | None = None
    # The host at which replicas are reached; the containers' own addresses unless said.
    address: _Text | None = None
    gpus: list[GpuDeclaration] = Field(default_factory=list, max_length=256)
    # What replicas may use; what the engine tells unless said.
    cpu: NonNegativeQuantity | None = None
    memory: NonNegativeQuantity | None = None
    spot: bool = False
    labels: dict[_Text, str] = Field(default_factory=dict)

    _read_numbers = field_validator("cpu", "memory", mode="before")(_as_quantity)

    @field_validator("memory")
    @classmethod
    def _check_memory(cls, memory: str | None) -> str | None:
        if memory is not None and _check_bytes(memory) == 0:
            raise ValueError("must be more than 0; leave it out for what the engine tells")
        return memory

    @field_validator("cpu")
    @classmethod
    def _check_cpu(cls, cpu: str | None) -> str | None:
        if cpu is not None and not 0 < _decimal(cpu) <= 65536:
            raise ValueError("must be more than 0; leave it out for what the engine tells")
        return cpu

    @field_validator("address")
    @classmethod
    def _check_address(cls, address: str | None) -> str | None:
        if address is None:
            return address
        try:
            found = ip_address(address)
        except ValueError:
            if not _HOST_NAME.fullmatch(address):
                raise ValueError(
                    "write an IP address or the name of a host, without a port"
                ) from None
            return address
        if found.is_unspecified or found.is_multicast:
            raise ValueError(
                "is no machine's own: ports would be published at all addresses of the node"
            )
        return address

    @field_validator("engine")
    @classmethod
    def _check_engine(cls, engine: str) -> str:
        try:
            parts = urlsplit(engine)
            port = parts.port
        except ValueError as error:
            raise ValueError("is not an address") from error
        if parts.query or parts.fragment or not engine.isprintable() or " " in engine:
            raise ValueError("is not an address: it has a query, a blank or a control character")
        if parts.scheme in {"tcp", "ssh"} and parts.path not in {"", "/"}:
            raise ValueError("has a path behind its host, where there is none")
        if parts.scheme == "unix":
            if not parts.path.startswith("/") or parts.netloc:
                raise ValueError("write a socket by its whole path, as unix:///run/docker.sock")
        elif parts.scheme == "tcp":
            if not parts.hostname or port is None:
                raise ValueError("write host and port, as tcp://host:2376")
        elif parts.scheme == "ssh":
            if not parts.hostname or parts.password is not None:
                raise ValueError("write ssh://user@host, without a password; use a key")
        else:
            raise ValueError("must begin with unix://, ssh:// or tcp://")
        return engine

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        parts = urlsplit(self.engine)
        if self.tls is not None and parts.scheme != "tcp":
            raise ValueError("tls is only for tcp://")
        if parts.scheme == "tcp" and self.tls is None and parts.hostname not in _LOOPBACK:
            raise ValueError(
                "tls is required for tcp:// to another machine: whoever reaches an engine without "
                "it owns the machine"
            )
        ids = [gpu.id for gpu in self.gpus]
        for index, gpu in enumerate(ids):
            if gpu in ids[:index]:
                raise ValueError(f"gpus.{index}.id: the same GPU comes before")
        return self

    @property
    def cpu_count(self) -> float:
        """The processors; 0 for what the engine tells."""
        return 0.0 if self.cpu is None else float(_decimal(self.cpu))

    @property
    def memory_bytes(self) -> int:
        """The memory; 0 for what the engine tells."""
        return 0 if self.memory is None else quantity_to_int(self.memory)


class NodesFile(_NodeModel):
    """A file of nodes, as `[[nodes]]` tables of TOML."""

    nodes: list[NodeDeclaration] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [node.name for node in self.nodes]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(f"nodes.{index}.name: the same node comes before")
        engines = [node.engine for node in self.nodes]
        for index, engine in enumerate(engines):
            if engine in engines[:index]:
                other = names[engines.index(engine)]
                raise ValueError(
                    f"nodes.{index}.engine: is that of node {other!r}, and an engine is one node"
                )
        return self

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """Reads what a TOML file holds: several nodes, or one without a `[[nodes]]` around it.

        Raises:
            pydantic.ValidationError: A rule is broken; its path says where.
        """
        return cls.model_validate({"nodes": [dict(data)]} if "name" in data else dict(data))


def _decimal(quantity: str) -> float:
    try:
        return float(quantity_to_decimal(quantity))
    except (ValueError, OverflowError, ArithmeticError) as error:
        raise ValueError("is not a number that can be computed") from error


def _check_bytes(quantity: str) -> int:
    try:
        size = quantity_to_int(quantity)
    except (ValueError, OverflowError, ArithmeticError) as error:
        raise ValueError("is not a whole number of bytes") from error
    if size >= 1 << 62:
        raise ValueError("is more than there is")
    if 0 < size < _LEAST_MEMORY:
        raise ValueError(f"is {size} bytes, less than there can be: write a unit, as 64Gi")
    return size
