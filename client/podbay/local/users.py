"""Who uses an installation, counted by locks: the system gives them back when a process ends.

Each user holds a shared lock on one file. The host, which runs the services, waits for an exclusive
lock on it: it gets that when the last user is gone, however that one ended, and keeps it until it
has ended itself, so that nobody joins an installation that is about to go.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from podbay.local.faults import LocalError

__all__ = ["User", "Users"]

_POLL_SECONDS = 0.02


class Users:
    """The users of the installation on one data folder.

    Args:
        folder: The data folder, which must exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "users.lock"
        self._turn_file = folder / "users-turn.lock"

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until no other user joins or leaves, and keep them from it meanwhile."""
        handle = _open(self._turn_file)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def enter(self, timeout: float) -> User:
        """Become a user; take the turn first. Waits while a host that nobody used is ending.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            LocalError: The host did not end in time.
        """
        handle = _open(self._file)
        deadline = time.monotonic() + timeout
        while not _try(handle, fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                os.close(handle)
                raise LocalError(
                    "DATA_DIR_IN_USE",
                    f"the services on {self._folder} have been stopping for {timeout:.0f} s",
                    way_out=f"end them with `podbay down --data-dir {self._folder}`",
                )
            time.sleep(_POLL_SECONDS)
        return User(self, handle)

    def wait_for_none(self) -> None:
        """Return when nobody is a user; from then on nobody can become one.

        The lock is never given back: it ends with this process, which is the host.
        """
        fcntl.flock(_open(self._file), fcntl.LOCK_EX)

    def name_host(self) -> None:
        """Write down that this process ends with its last user."""
        handle = _open(self._file)
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        finally:
            os.close(handle)

    def is_host(self, pid: int) -> bool:
        """Return whether a process that runs the services ends with its last user."""
        return self._file.read_text() == f"{pid}\n"


class User:
    """One user, from `Users.enter` to `leave`.

    Args:
        users: All of them.
        handle: The file, with a shared lock.
    """

    def __init__(self, users: Users, handle: int) -> None:
        self._users = users
        self._handle = handle

    def leave(self) -> bool:
        """Stop being a user, and return whether it was the last one. Takes the turn itself."""
        with self._users.turn():
            last = self._is_last()
            self.drop()
        return last

    def drop(self) -> None:
        """Stop being a user, without a word about others."""
        # By name: a forked child may have the file open, too, and with it the lock.
        fcntl.flock(self._handle, fcntl.LOCK_UN)
        os.close(self._handle)

    def _is_last(self) -> bool:
        if _try(self._handle, fcntl.LOCK_EX):
            return True
        # Asking gave the shared lock up, so either others have one, or the host was quicker.
        return not _try(self._handle, fcntl.LOCK_SH)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _try(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
