"""Removes what engines of a test run made on this machine, also after a run that crashed.

Everything of a run carries its slot's name: its folder, its bridges' addresses, its control
groups. So what is left can be found, and is ended by process id.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.docker.slots import Slot

_CGROUPS = Path("/sys/fs/cgroup")
_MNT_DETACH = 2
_DEADLINE = 20.0


def remove_leftovers(slot: Slot) -> None:
    """End all processes of a slot, and remove its networks, mounts, groups and files."""
    _kill_until_none(slot)
    for bridge in _bridges(slot):
        _quietly("ip", "link", "del", bridge)
    _clean_iptables(slot)
    _unmount(slot.folder)
    _remove_groups(slot)
    shutil.rmtree(slot.folder, ignore_errors=True)


def processes_of(slot: Slot) -> set[int]:
    """Return the processes that belong to a slot: daemons, shims, proxies and containers."""
    found = set(_in_groups(slot))
    needles = (f"{slot.folder}/".encode(), f"\0{slot.network}.".encode())
    for path in Path("/proc").iterdir():
        if not path.name.isdecimal() or int(path.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command = (path / "cmdline").read_bytes()
            program = command.split(b"\0", 1)[0].rsplit(b"/", 1)[-1]
            ours = program.startswith((b"containerd", b"dockerd", b"docker-", b"runc"))
            if ours and any(needle in command for needle in needles):
                found.add(int(path.name))
    return found


def _kill_until_none(slot: Slot) -> None:
    deadline = time.monotonic() + _DEADLINE
    while pids := processes_of(slot):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes of {slot.name} do not end: {sorted(pids)}")
        time.sleep(0.02)


def _in_groups(slot: Slot) -> Iterator[int]:
    for group in _groups(slot):
        with contextlib.suppress(OSError):
            for line in (group / "cgroup.procs").read_text().split():
                yield int(line)


def _groups(slot: Slot) -> list[Path]:
    """Return the control groups of a slot, inner ones first."""
    name = slot.name
    roots = [_CGROUPS / name, *(_CGROUPS / part / name for part in os.listdir(_CGROUPS))]
    found: list[Path] = []
    for root in roots:
        if root.is_dir():
            found.extend(Path(folder) for folder, _, _ in os.walk(root, topdown=False))
    return found


def _remove_groups(slot: Slot) -> None:
    for group in _groups(slot):
        with contextlib.suppress(OSError):
            group.rmdir()


def _bridges(slot: Slot) -> list[str]:
    shown = subprocess.run(["ip", "-j", "addr"], capture_output=True, check=True).stdout
    return [
        link["ifname"]
        for link in json.loads(shown)
        # By its name where it never got an address; networks' bridges have names of the engine's.
        if link["ifname"].startswith(slot.bridge_prefix)
        or any(a.get("local", "").startswith(f"{slot.network}.") for a in link["addr_info"])
    ]


def _clean_iptables(slot: Slot) -> None:
    """Delete rules that name a bridge that is gone, or an address of the slot."""
    links = set(os.listdir("/sys/class/net"))
    for table in ("filter", "nat"):
        saved = subprocess.run(
            ["iptables-save", "-t", table], capture_output=True, text=True, check=False
        )
        for line in saved.stdout.splitlines():
            if not line.startswith("-A "):
                continue
            words = line.split()
            named = [words[i + 1] for i, word in enumerate(words[:-1]) if word in {"-i", "-o"}]
            gone = any(n.startswith(("br-", slot.bridge_prefix)) and n not in links for n in named)
            if gone or any(word.startswith(f"{slot.network}.") for word in words):
                _quietly("iptables", "-w", "-t", table, "-D", *words[1:])


def _unmount(folder: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted(mounts, reverse=True):
        if mount == str(folder) or mount.startswith(f"{folder}/"):
            libc.umount2(mount.encode(), _MNT_DETACH)


def _quietly(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=False)
