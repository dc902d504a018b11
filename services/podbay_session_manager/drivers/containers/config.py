"""From a replica to what the engine is told: hardened unless the operator says otherwise. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from podbay_session_manager.drivers.containers.labels import Ownership
from podbay_session_manager.drivers.containers.settings import DockerSettings
from podbay_session_manager.drivers.contract import LaunchSpec
from podbay_session_manager.records import (
    GPUS_VARIABLE,
    PORT_VARIABLE,
    REPLICA_VARIABLE,
    SESSION_VARIABLE,
    ServiceSpec,
)

__all__ = [
    "MountedFolder",
    "container_config",
    "declared_folders",
    "memory_of",
    "port_of",
    "probe_config",
]

_DEFAULT_PORT: Final = 8000
# The engine's own period, in microseconds, and the least that it takes of one.
_PERIOD_MICROS: Final = 100_000
_LEAST_QUOTA_MICROS: Final = 1_000
# Within the container, where none is: the engine's own resolver would carry questions out of a
# network that has no way out.
_NO_NAME_SERVER: Final = "127.0.0.1"
# The engine's resolver stays silent then; programs that look names up at their start shall not
# wait long for that.
_NO_NAME_OPTIONS: Final = ("timeout:1", "attempts:1")
_HOST_VARIABLE: Final = "PODBAY_REPLICA_HOST"
_SMALL_TMPFS: Final = 16 << 20
# What is in memory in every container.
_IN_MEMORY: Final = frozenset({"/tmp", "/var/tmp", "/run", "/dev/shm"})  # noqa: S108 # in the container


@dataclass(frozen=True, slots=True)
class MountedFolder:
    """What lies at a path of a replica."""

    path: str
    source: str = ""
    """A folder of the node, or the name of a volume; empty for memory."""
    volume: bool = False
    """Whether the source is a volume."""
    filled: bool = False
    """Whether the volume begins with what the image has at the path."""
    read_only: bool = False
    memory_bytes: int = 0
    """The size of what is in memory."""


def declared_folders(image: Mapping[str, Any], taken: Iterable[str]) -> list[str]:
    """Return the folders that an image declares as volumes and that nothing else lies at.

    Args:
        image: What the engine knows of the image.
        taken: The paths of what a replica mounts.
    """
    known = {*_IN_MEMORY, *(posixpath.normpath(path) for path in taken)}
    paths = {posixpath.normpath(path) for path in (image.get("Config") or {}).get("Volumes") or ()}
    return sorted(paths - known)


def port_of(service: ServiceSpec) -> int:
    """Return the port that a service serves on within its container."""
    return service.fixed_port or _DEFAULT_PORT


def memory_of(service: ServiceSpec, settings: DockerSettings) -> int:
    """Return the memory that a replica may use, in bytes."""
    return service.memory_bytes or settings.default_memory_bytes


def container_config(
    spec: LaunchSpec,
    image: Mapping[str, Any],
    network: str,
    mounts: Sequence[MountedFolder],
    owner: Ownership,
    settings: DockerSettings,
    *,
    address: str = "",
) -> dict[str, Any]:
    """Return the body of the engine's request to create a replica's container.

    Args:
        spec: The replica.
        image: What the engine knows of its image.
        network: The id of its session's network.
        mounts: What it mounts.
        owner: Whose it is.
        settings: What the operator allows.
        address: The node's address to publish its port on; empty where it is reached by its own.
    """
    service = spec.service
    port = f"{port_of(service)}/tcp"
    image_config = image.get("Config") or {}
    user, by_us = _user(image_config, settings)
    config: dict[str, Any] = {
        "Image": service.image,
        "User": user,
        "Env": _environment(spec, image_config, home=by_us),
        "Labels": owner.labels(
            replica=spec.replica_id, session=spec.session_id, node=spec.node or "-"
        ),
        "Tty": False,
        "OpenStdin": False,
        "ExposedPorts": {port: {}},
        "HostConfig": {
            **_limits(service, settings),
            **_hardening(mounts, settings),
            **_logging(settings),
            **_devices(spec.gpus),
            "NetworkMode": network,
            "RestartPolicy": {"Name": "no"},
        },
    }
    if not service.egress:
        config["HostConfig"]["Dns"] = [_NO_NAME_SERVER]
        config["HostConfig"]["DnsOptions"] = list(_NO_NAME_OPTIONS)
    if address:
        config["HostConfig"]["PortBindings"] = {port: [{"HostIp": address, "HostPort": ""}]}
    if service.command:
        config["Entrypoint"] = list(service.command)
    # An image's own arguments belong to its own command only.
    arguments = list(service.args)
    if service.kind == "mock" and service.is_mock:
        arguments = [service.name, *arguments]
    if arguments or service.command:
        config["Cmd"] = arguments
    if service.working_dir is not None:
        config["WorkingDir"] = service.working_dir
    return config


def probe_config(image: str, owner: Ownership, settings: DockerSettings) -> dict[str, Any]:
    """Return the body of the request to create a container that looks at a node's GPUs."""
    return {
        "Image": image,
        "Entrypoint": ["nvidia-smi"],
        "Cmd": ["--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"],
        "Labels": owner.labels(helper="gpu-probe"),
        "HostConfig": {
            **_hardening((), settings),
            **_logging(settings),
            "Memory": 512 << 20,
            "PidsLimit": 64,
            "NetworkMode": "none",
            "RestartPolicy": {"Name": "no"},
            "DeviceRequests": [{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}],
        },
    }


def _user(image_config: Mapping[str, Any], settings: DockerSettings) -> tuple[str, bool]:
    """Return the user that a container runs as, and whether that is not the image's choice."""
    own = str(image_config.get("User") or "")
    if settings.allow_root or not _is_root(own.partition(":")[0]):
        return own, False
    return settings.user, True


def _is_root(name: str) -> bool:
    if name in {"", "root"}:
        return True
    try:
        # As the engine reads it: "00" and "+0" are numbers, too.
        return int(name) == 0
    except ValueError:
        return False


def _environment(spec: LaunchSpec, image_config: Mapping[str, Any], *, home: bool) -> list[str]:
    of_image = {str(line).partition("=")[0] for line in image_config.get("Env") or ()}
    variables: dict[str, str] = {}
    if home and "HOME" not in of_image:
        # A user without an entry has "/", where nothing can be written.
        variables["HOME"] = "/tmp"  # noqa: S108 # in the container, where it is its own
    if "PYTHONUNBUFFERED" not in of_image:
        variables["PYTHONUNBUFFERED"] = "1"
    variables[_HOST_VARIABLE] = "0.0.0.0"
    variables.update(spec.service.env)
    # Images for GPUs ask for all of them by this. Where the NVIDIA runtime is an engine's default
    # one, they would get them; for a replica that has some, the engine names these and no others.
    variables.pop(GPUS_VARIABLE, None)
    if not spec.gpus:
        variables[GPUS_VARIABLE] = "void"
    variables[PORT_VARIABLE] = str(port_of(spec.service))
    variables[SESSION_VARIABLE] = spec.session_id
    variables[REPLICA_VARIABLE] = spec.replica_id
    return [f"{name}={value}" for name, value in variables.items()]


def _limits(service: ServiceSpec, settings: DockerSettings) -> dict[str, Any]:
    memory = memory_of(service, settings)
    limits: dict[str, Any] = {
        "Memory": memory,
        # No swap on top of it.
        "MemorySwap": memory,
        "PidsLimit": settings.pids_limit,
        # Where the whole machine runs out of memory, replicas go before what runs them.
        "OomScoreAdj": 500,
        "ShmSize": min(settings.shm_bytes, memory),
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
    }
    if service.cpus:
        # Not as NanoCpus: what is given so cannot be lifted any more.
        limits["CpuPeriod"] = _PERIOD_MICROS
        limits["CpuQuota"] = max(_LEAST_QUOTA_MICROS, round(service.cpus * _PERIOD_MICROS))
    return limits


def _hardening(mounts: Sequence[MountedFolder], settings: DockerSettings) -> dict[str, Any]:
    tmpfs = {
        "/tmp": _tmpfs(settings.tmp_bytes),  # noqa: S108 # in the container
        "/var/tmp": _tmpfs(_SMALL_TMPFS),  # noqa: S108 # in the container
        "/run": _tmpfs(_SMALL_TMPFS),
    }
    for mount in mounts:
        if not mount.source:
            tmpfs[mount.path] = _tmpfs(mount.memory_bytes)
    return {
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "Privileged": False,
        "ReadonlyRootfs": True,
        "IpcMode": "private",
        "Tmpfs": tmpfs,
        "Mounts": [_mount(mount) for mount in mounts if mount.source],
    }


def _tmpfs(size: int) -> str:
    # Programs may be run from it: just-in-time compilers put theirs there.
    return f"rw,nosuid,nodev,exec,mode=1777,size={size}"


def _mount(mount: MountedFolder) -> dict[str, Any]:
    made: dict[str, Any] = {
        "Type": "volume" if mount.volume else "bind",
        "Source": mount.source,
        "Target": mount.path,
        "ReadOnly": mount.read_only,
    }
    if mount.volume:
        made["VolumeOptions"] = {"NoCopy": not mount.filled}
    else:
        made["BindOptions"] = {"Propagation": "rprivate"}
    return made


def _logging(settings: DockerSettings) -> dict[str, Any]:
    return {
        "LogConfig": {
            "Type": "local",
            "Config": {
                "max-size": str(max(settings.log_bytes // 2, 1 << 16)),
                "max-file": "2",
                "compress": "false",
            },
        }
    }


def _devices(gpus: Sequence[str]) -> dict[str, Any]:
    if not gpus:
        return {}
    return {
        "DeviceRequests": [{"Driver": "nvidia", "DeviceIDs": list(gpus), "Capabilities": [["gpu"]]}]
    }
