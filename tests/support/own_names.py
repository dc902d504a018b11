"""Processes that know machines by other names than the rest of this machine does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["OwnNames", "missing_unshare"]

_SCRIPT = (
    'mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/resolv.conf && shift 2 && exec "$@"'
)


def missing_unshare() -> str | None:
    """Tell why no process can have names of its own; None where it can."""
    if os.geteuid() != 0:
        return "not root: only root can give a process other names of machines"
    missing = [name for name in ("unshare", "mount") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed: apt-get install util-linux mount"
    return None


class OwnNames:
    """The names that some processes know; no server tells them others.

    Args:
        folder: Where the files are that say so.
    """

    def __init__(self, folder: Path) -> None:
        self._hosts, self._resolver = folder / "hosts", folder / "resolv.conf"
        # Where nobody listens: at once no answer, as behind a broken network, but sooner.
        self._resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        self.launcher = (
            *("unshare", "--mount", "sh", "-c", _SCRIPT, "sh"),
            *(str(self._hosts), str(self._resolver)),
        )
        """What runs a command that knows these names and no others."""
        self.set()

    def set(self, *names: str) -> None:
        """Let this machine have these names, and no others."""
        # Written in place, as the file is mounted elsewhere.
        self._hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in names))
