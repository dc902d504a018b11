"""Files kept by the SHA-256 of their content, in one folder.

A file comes into the folder whole or not at all: it is written under another name, flushed to the
disk, and renamed. It is verified before every use. Everything here blocks: call it in threads.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

__all__ = [
    "BlobFolder",
    "ClosingError",
    "DamagedFileError",
    "Digests",
    "Hasher",
    "Verifier",
    "is_sha256",
    "remove_tree",
    "sync_folder",
]

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SLICE: Final = 1 << 20
_READ_ONLY: Final = 0o444
# Within this time after a change, a further one may leave the file's times as they are.
_RACY_NS: Final = 2_000_000_000
_MAX_REMEMBERED: Final = 100_000


class DamagedFileError(Exception):
    """A file is not what it was when it was stored.

    Attributes:
        sha256: What it should be.
        found: The SHA-256 of what is there; empty where nothing is.
    """

    def __init__(self, sha256: str, found: str) -> None:
        super().__init__(f"expected {sha256}, found {found or 'nothing'}")
        self.sha256 = sha256
        self.found = found


class ClosingError(Exception):
    """The work was given up because the process is about to end."""


@dataclass(frozen=True, slots=True)
class Digests:
    """What identifies content.

    Attributes:
        size: Its length in bytes.
        sha256: In lower-case hex.
        md5: In base64, as the JSON interface has it.
    """

    size: int
    sha256: str
    md5: str


class Hasher:
    """Takes the digests of content that comes piece by piece."""

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        # Names content, as the JSON interface wants it; it keeps no secret.
        self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """Add the next piece."""
        self.size += len(data)
        self._sha256.update(data)
        self._md5.update(data)

    def digests(self) -> Digests:
        """Return the digests of what came so far."""
        md5 = base64.b64encode(self._md5.digest()).decode("ascii")
        return Digests(self.size, self._sha256.hexdigest(), md5)

    def update_from(
        self, file: BinaryIO, size: int | None = None, closing: threading.Event | None = None
    ) -> None:
        """Add what a file holds from where it stands.

        Args:
            file: An open file.
            size: How many bytes; up to its end unless given.
            closing: Gives the work up once it is set.

        Raises:
            ClosingError: `closing` was set.
        """
        left = size
        while left is None or left > 0:
            if closing is not None and closing.is_set():
                raise ClosingError
            data = file.read(_SLICE if left is None else min(_SLICE, left))
            if not data:
                return
            self.update(data)
            left = None if left is None else left - len(data)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a file looked like when its content was verified."""

    sha256: str
    size: int
    mtime_ns: int
    ctime_ns: int
    at: float


class Verifier:
    """Verifies files, and remembers for a while those that have not changed since.

    A file that was written to has other times, and is read again. What changes on the disk by
    itself is found when the memory of it ends.

    Args:
        trust_seconds: How long a verified file is trusted while its times stay as they are.
        monotonic: Seconds that only grow.
    """

    def __init__(
        self, trust_seconds: float = 600.0, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._trust_seconds = trust_seconds
        self._monotonic = monotonic
        self._seen: dict[tuple[int, int], _Seen] = {}
        self._lock = threading.Lock()
        self.closing = threading.Event()
        """Gives up what runs, once it is set."""

    def open(self, path: Path, sha256: str) -> BinaryIO:
        """Open a file whose content has a digest.

        Raises:
            DamagedFileError: It is another content, or no regular file is there.
            ClosingError: The process is about to end.
        """
        try:
            # Not blocking: a pipe that lies there must not hold anybody up.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(path, flags)
        except (FileNotFoundError, NotADirectoryError):
            raise DamagedFileError(sha256, "") from None
        except OSError as error:
            if not path.is_symlink():
                raise
            raise DamagedFileError(sha256, "") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise DamagedFileError(sha256, "")
        file = os.fdopen(descriptor, "rb")
        try:
            self._check(file, sha256)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def _check(self, file: BinaryIO, sha256: str) -> None:
        before = os.fstat(file.fileno())
        key = (before.st_dev, before.st_ino)
        with self._lock:
            seen = self._seen.get(key)
        if (
            seen is not None
            and (seen.sha256, seen.size) == (sha256, before.st_size)
            and (seen.mtime_ns, seen.ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
            and self._monotonic() - seen.at < self._trust_seconds
        ):
            return
        started, started_ns = self._monotonic(), time.time_ns()
        hasher = Hasher()
        hasher.update_from(file, closing=self.closing)
        found = hasher.digests().sha256
        if found != sha256:
            raise DamagedFileError(sha256, found)
        if started_ns - max(before.st_mtime_ns, before.st_ctime_ns) < _RACY_NS:
            return
        with self._lock:
            if len(self._seen) >= _MAX_REMEMBERED:
                self._seen.clear()
            self._seen[key] = _Seen(
                sha256, before.st_size, before.st_mtime_ns, before.st_ctime_ns, started
            )


class BlobFolder:
    """A folder of files by their digests, and of parts that are still to come whole.

    Args:
        root: The folder; `files` and `incoming` are made in it.
        verifier: Verifies what is used.
    """

    def __init__(self, root: Path, verifier: Verifier | None = None) -> None:
        self.root = root
        self.verifier = verifier or Verifier()
        self._files = root / "files"
        self._incoming = root / "incoming"

    def prepare(self) -> None:
        """Make the folders."""
        for folder in (self._files, self._incoming):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, sha256: str) -> Path:
        """Return where a file is, or would be."""
        if not is_sha256(sha256):
            raise ValueError("not a SHA-256 in lower-case hex")
        return self._files / sha256[:2] / sha256

    def part(self, name: str) -> Path:
        """Return where the part of a file is written; the name is the caller's."""
        return self._incoming / name

    def parts(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the parts that are there, by name."""
        with os.scandir(self._incoming) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    yield entry.name, entry.stat(follow_symlinks=False)

    def stored(self) -> Iterator[tuple[str, int]]:
        """Yield digest and size of each file."""
        for folder in sorted(self._files.iterdir()):
            for path in sorted(folder.iterdir()):
                if is_sha256(path.name):
                    yield path.name, path.stat().st_size

    def settle(self, source: Path) -> None:
        """Have the disk know a file that `keep` will take; this takes long for a large one."""
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, _READ_ONLY)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def keep(self, source: Path, sha256: str) -> None:
        """Take a settled file into the folder; the disk knows its name when this returns.

        Args:
            source: A file on the same file system, whose content the caller has verified.
            sha256: Its digest.
        """
        target = self.path(sha256)
        target.parent.mkdir(exist_ok=True, mode=0o700)
        source.replace(target)
        sync_folder(target.parent)
        sync_folder(self._files)

    def size(self, sha256: str) -> int | None:
        """Return the length of a file; None where it is not there."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def remove(self, sha256: str) -> None:
        """Remove a file, where it is there."""
        self.path(sha256).unlink(missing_ok=True)

    def open_verified(self, sha256: str) -> BinaryIO:
        """Open a file for reading, once its content was verified.

        Raises:
            DamagedFileError: The content is another, or is gone.
            ClosingError: The process is about to end.
        """
        return self.verifier.open(self.path(sha256), sha256)


def is_sha256(text: str) -> bool:
    """Say whether a text is a SHA-256 in lower-case hex."""
    return _SHA256.fullmatch(text) is not None


def sync_folder(folder: Path) -> None:
    """Have the disk know the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it, also where it was made read-only; a missing one is fine."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    for folder, _, _ in os.walk(path):
        Path(folder).chmod(0o700)
    shutil.rmtree(path)
