"""Room for the engines of one test run: a folder and addresses that no other run uses."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

# Short: the paths of sockets may have 107 bytes.
_ROOT = Path("/tmp/podbay-engines")
_SLOTS = 32
_FIRST_OCTET = 200


@dataclass(frozen=True)
class Slot:
    """A place for engines."""

    number: int

    @property
    def name(self) -> str:
        """A name that only this slot has, as "podbay-test-03"."""
        return f"podbay-test-{self.number:02d}"

    @property
    def folder(self) -> Path:
        """Where all files are."""
        return _ROOT / f"{self.number:02d}"

    @property
    def network(self) -> str:
        """The first half of all addresses, as "10.203"."""
        return f"10.{_FIRST_OCTET + self.number}"

    @property
    def bridge_prefix(self) -> str:
        """How the bridges' names begin."""
        return f"pbt{self.number:02d}n"


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Keep other runs on this machine out: two engines that start at once disturb each other."""
    _ROOT.mkdir(exist_ok=True, mode=0o700)
    with (_ROOT / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def take_slot() -> tuple[Slot, list[Slot]]:
    """Take a free slot; return it, and those that crashed runs left behind.

    To be called within `one_at_a_time`.
    """
    stale: list[Slot] = []
    taken: Slot | None = None
    for number in range(_SLOTS):
        slot = Slot(number)
        if slot.folder.exists():
            if not _alive(slot):
                stale.append(slot)
        elif taken is None:
            taken = slot
    if taken is None:
        raise RuntimeError(f"no slot is free below {_ROOT}")
    taken.folder.mkdir(parents=True)
    (taken.folder / "owner").write_text(f"{os.getpid()} {psutil.Process().create_time()}")
    return taken, stale


def _alive(slot: Slot) -> bool:
    try:
        pid, born = (slot.folder / "owner").read_text().split()
        return abs(psutil.Process(int(pid)).create_time() - float(born)) < 1
    except (OSError, ValueError, psutil.NoSuchProcess):
        return False
