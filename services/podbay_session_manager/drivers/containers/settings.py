"""How an operator lets containers run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from podbay_session_manager.records import DataMount

__all__ = ["DockerSettings", "Moved", "NotThereYetError", "ResolveMount"]

Moved = Callable[[int, int], object]
"""Told how many bytes have come, and how many there will be."""


class NotThereYetError(LookupError):
    """The files of a mount are not there yet, and will be. The text says what they wait for."""


ResolveMount = Callable[[DataMount, Moved], Awaitable[Path]]
"""From a mount to the folder on this machine that holds its files, which any user may read. Tells
how far it is where they come from elsewhere, and raises LookupError with a text for people where
there is none, `NotThereYetError` where there will be one."""


@dataclass(frozen=True, slots=True)
class DockerSettings:
    """What all nodes of an installation have in common.

    Args:
        installation: The id of the installation: containers of others are left alone.
        folder: Where logs are kept that outlive their containers.
        resolve_mount: Finds the files of data mounts; None where services cannot have any.
        generation: Which start of the session manager this is, for people who look at labels.
        allow_egress: Whether services may ask for a way out of their network.
        allow_root: Whether images that name no user run as root; else as `user`.
        user: The user and group that images run as which name none, as numbers.
        default_memory_bytes: What a replica may use whose service does not say.
        pids_limit: How many processes and threads one replica may have.
        tmp_bytes: The size of /tmp in a replica, which is in its memory.
        shm_bytes: The size of /dev/shm in a replica, which is in its memory.
        log_bytes: How much of a log is kept, on the node and here.
        unbounded_scratch: Whether scratch space may be larger than what memory holds where the
            engine cannot bound a volume, and the folders that images declare as volumes be written.
        subnets: The addresses for sessions' networks where the engine has none left of its own.
        gpu_probe_image: An image with nvidia-smi, to look at nodes with GPUs; empty for no look.
        gpu_probe_seconds: The pause between two looks.
        copy_data: Whether files of resources are copied also to engines of this machine, as where
            the session manager is in a container itself.
        ssh_options: Further arguments of ssh, for engines that are reached by it.
        call_seconds: How long an engine may take to answer a question.
    """

    installation: str
    folder: Path
    resolve_mount: ResolveMount | None = None
    generation: str = "1"
    allow_egress: bool = False
    allow_root: bool = False
    user: str = "65532:65532"
    default_memory_bytes: int = 4 << 30
    pids_limit: int = 2048
    tmp_bytes: int = 256 << 20
    shm_bytes: int = 1 << 30
    log_bytes: int = 10 << 20
    unbounded_scratch: bool = False
    subnets: str = "10.201.0.0/16"
    gpu_probe_image: str = ""
    gpu_probe_seconds: float = 300.0
    copy_data: bool = False
    ssh_options: tuple[str, ...] = ()
    call_seconds: float = 8.0
