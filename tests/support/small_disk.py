"""A file system in memory that is soon full."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["SmallDisk", "missing_mount", "small_disk"]


def missing_mount() -> str | None:
    """Tell why no small disk can be mounted; None where it can."""
    if os.geteuid() != 0:
        return "not root: only root can mount a small disk"
    if shutil.which("mount") is None:
        return "mount is not installed: apt-get install mount"
    return None


class SmallDisk:
    """A mounted file system.

    Args:
        path: Where it is mounted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Take all the room that is left."""
        with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)

    def free(self) -> None:
        """Give the room back."""
        self._filler.unlink()

    def grow(self, size: str) -> None:
        """Change the size of the whole, as "20m"."""
        subprocess.run(["mount", "-o", f"remount,size={size}", self._path], check=True)

    def lock(self) -> None:
        """Let nobody write to it any more."""
        subprocess.run(["mount", "-o", "remount,ro", self._path], check=True)


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[SmallDisk]:
    """Mount one at `path`, of `size` as "256k"."""
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield SmallDisk(path)
    finally:
        # What still has a file open there, as a process that is about to end, keeps nobody.
        subprocess.run(["umount", "--lazy", path], check=True)
