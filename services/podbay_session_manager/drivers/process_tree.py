"""Who a process is, and which processes belong to a replica."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection
from pathlib import Path
from typing import Final

import psutil

from podbay_session_manager.records import REPLICA_VARIABLE

__all__ = ["find_marked", "identity", "kill_all"]

_MARK: Final = f"\0{REPLICA_VARIABLE}=".encode()
_PROC: Final = Path("/proc")
_START_FIELD: Final = 19
"""Of /proc/PID/stat, behind the name: the start in ticks since the boot."""


def identity(pid: int) -> str | None:
    """Return what tells a process from all others that ever had its id; None where it is gone.

    A zombie is gone: it runs no more and holds nothing.
    """
    if _PROC.joinpath("self", "stat").exists():
        try:
            stat = _PROC.joinpath(str(pid), "stat").read_text(errors="replace")
            boot = _PROC.joinpath("sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None
        fields = stat[stat.rindex(")") + 2 :].split()
        return None if fields[0] in "ZX" else f"{boot}:{fields[_START_FIELD]}"
    try:
        process = psutil.Process(pid)
        if process.status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}:
            return None
        return f"{process.create_time():.2f}"
    except psutil.Error:
        return None


def find_marked(replica_ids: Collection[str]) -> dict[str, list[int]]:
    """Return the processes of each of these replicas, in one look over all processes.

    Zombies are left out. A process is told by its environment, so that it is found also where it
    left its group, its session and its parent.
    """
    wanted = set(replica_ids)
    found: dict[str, list[int]] = {}
    for pid in psutil.pids():
        replica_id = _mark_of(pid)
        if replica_id in wanted:
            found.setdefault(replica_id, []).append(pid)
    return found


def kill_all(pids: Collection[int]) -> None:
    """End processes at once; those that are gone do not matter."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _mark_of(pid: int) -> str:
    try:
        environment = b"\0" + _PROC.joinpath(str(pid), "environ").read_bytes()
    except FileNotFoundError:
        return "" if _PROC.joinpath("self").exists() else _mark_by_psutil(pid)
    except OSError:
        # Gone, or of another user, and so none of ours.
        return ""
    start = environment.find(_MARK)
    if start < 0:
        return ""
    end = environment.find(b"\0", start + 1)
    return environment[start + len(_MARK) : end if end >= 0 else None].decode(errors="replace")


def _mark_by_psutil(pid: int) -> str:
    try:
        return psutil.Process(pid).environ().get(REPLICA_VARIABLE, "")
    except psutil.Error:
        return ""
