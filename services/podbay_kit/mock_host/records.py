"""How the session manager finds the processes that host mocks: a locked file each.

A host holds an exclusive lock on its file for as long as it lives. The system gives the lock back
when the process ends, however it ends, so a file that can be locked is one of the past.
"""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["HostFile", "HostRecord", "find_hosts"]

_SUFFIX = ".host"


@dataclass(frozen=True)
class HostRecord:
    """One process that hosts mocks.

    Attributes:
        host_id: Tells it from all others that ever were.
        pid: The id of its process.
        port: Where it takes orders, on 127.0.0.1.
        secret: What whoever gives orders must know.
    """

    host_id: str
    pid: int
    port: int
    secret: str = field(repr=False)


class HostFile:
    """The file of a host that runs in this process.

    Args:
        folder: Where the files of all hosts of the installation are; made where there is none.
        port: Where the host takes orders.

    Attributes:
        record: What the file says.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.record = HostRecord(secrets.token_hex(16), os.getpid(), port, secrets.token_hex(32))
        self._path = folder / f"{self.record.host_id}{_SUFFIX}"
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Before there is anything to read: nobody takes it for one of the past.
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            os.write(self._handle, json.dumps(asdict(self.record)).encode())
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the file: this process hosts no longer."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Give up the file in a forked child, whose parent goes on with it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def find_hosts(folder: Path) -> Sequence[HostRecord]:
    """Return the hosts that live, and remove the files of those that do not.

    Args:
        folder: Where the files are; there need be none.
    """
    try:
        paths = [path for path in folder.iterdir() if path.suffix == _SUFFIX]
    except FileNotFoundError:
        return []
    return [record for path in paths if (record := _read(path)) is not None]


def _read(path: Path) -> HostRecord | None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None  # gone meanwhile
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _parse(os.pread(handle, 4096, 0))
        # Empty is one that is being made: between its creation and its lock.
        if os.fstat(handle).st_size:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        return None
    finally:
        os.close(handle)


def _parse(data: bytes) -> HostRecord | None:
    try:
        return HostRecord(**json.loads(data))
    except (ValueError, TypeError):
        return None  # it is being written
