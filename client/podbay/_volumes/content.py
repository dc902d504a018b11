"""What files hold: digests of them, pieces of them, and files that come piece by piece."""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from podbay._core.wire_errors import invalid
from podbay.errors import InvalidRequestError, error_for
from podbay.schema.checks import check_portable_path
from podbay.v1 import registry_service_pb2 as registry

__all__ = ["Digests", "FileReader", "FileWriter", "digests_of"]

_SLICE: Final = 1 << 20

Took = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Digests:
    """What identifies content.

    Attributes:
        size: Its length in bytes.
        sha256: In lower-case hex.
        md5: In base64.
    """

    size: int
    sha256: str
    md5: str


def digests_of(location: Path, took: Took | None = None) -> Digests:
    """Return the digests of a file.

    Args:
        location: Where it is.
        took: Called with the number of bytes of each piece that was read.

    Raises:
        InvalidRequestError: It cannot be read.
    """
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    try:
        with location.open("rb") as file:
            while data := file.read(_SLICE):
                sha256.update(data)
                md5.update(data)
                size += len(data)
                if took is not None:
                    took(len(data))
    except OSError as error:
        raise _unreadable(location, error) from None
    return Digests(size, sha256.hexdigest(), base64.b64encode(md5.digest()).decode("ascii"))


def _unreadable(location: Path, error: OSError) -> InvalidRequestError:
    return invalid(str(location), f"cannot be read: {error.strerror}", "The volume")


class FileReader:
    """Gives the chunks of a file from a byte on.

    Args:
        location: Where it is.
        offset: Where to begin.
        chunk: How many bytes a chunk has.

    Raises:
        InvalidRequestError: It cannot be read.
    """

    def __init__(self, location: Path, offset: int, chunk: int) -> None:
        try:
            self._file = location.open("rb")
        except OSError as error:
            raise _unreadable(location, error) from None
        self._file.seek(offset)
        self._location = location
        self._offset = offset
        self._chunk = chunk

    def next(self) -> registry.FileChunk | None:
        """Return the next chunk; None at the end.

        Raises:
            InvalidRequestError: The file cannot be read.
        """
        try:
            data = self._file.read(self._chunk)
        except OSError as error:
            raise _unreadable(self._location, error) from None
        if not data:
            return None
        chunk = registry.FileChunk(offset=self._offset, data=data, crc32=zlib.crc32(data))
        self._offset += len(data)
        return chunk

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class FileWriter:
    """Writes a file that comes in chunks, under another name until it is whole.

    What an earlier one has left is used again.

    Args:
        root: The folder of the volume.
        path: The path in the volume.
        size: The file's length in bytes.
        sha256: What it must hold.
    """

    def __init__(self, root: Path, path: str, size: int, sha256: str) -> None:
        # It comes from a service, and must not lead out of the folder.
        try:
            check_portable_path(path)
        except ValueError as error:
            raise error_for(
                "INTERNAL", f"The registry names a file whose path is not portable: {error}."
            ) from None
        self.path = path
        self._target = root / path
        self._draft = self._target.with_name(f".{sha256[:32]}.podbay-part")
        self._size = size
        self._sha256 = sha256
        self._digest = hashlib.sha256()
        self._file: BinaryIO | None = None
        self.offset = 0
        """How many bytes are there."""

    def is_there(self) -> bool:
        """Say whether the file is there already, whole.

        Raises:
            InvalidRequestError: Something else is in its place.
        """
        if not self._target.exists() and not self._target.is_symlink():
            return False
        if self._target.is_file() and self._target.stat().st_size == self._size:
            return digests_of(self._target).sha256 == self._sha256 or self._in_the_way()
        return self._in_the_way()

    def _in_the_way(self) -> bool:
        raise invalid(
            "destination",
            f"{str(self._target)!r} is there with other content: remove it, or name another folder",
            "The download",
        )

    def begin(self) -> None:
        """Open the file, and take up what an earlier download has left."""
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self.close()
        self._digest, self.offset = hashlib.sha256(), 0
        self._file = self._draft.open("a+b")
        if os.fstat(self._file.fileno()).st_size > self._size:
            self._file.truncate(0)
        self._file.seek(0)
        while data := self._file.read(_SLICE):
            self._digest.update(data)
            self.offset += len(data)

    def write(self, chunk: registry.FileChunk) -> int:
        """Add a chunk; return how many bytes were added.

        Raises:
            ConnectionLostError: It was damaged on its way, or does not fit.
        """
        if chunk.offset != self.offset or (
            chunk.HasField("crc32") and chunk.crc32 != zlib.crc32(chunk.data)
        ):
            raise error_for(
                "TRANSFER_INTERRUPTED", f"A chunk of {self.path!r} was damaged on its way."
            )
        assert self._file is not None, "begin() comes first"  # noqa: S101 # a defect otherwise
        self._file.write(chunk.data)
        self._digest.update(chunk.data)
        self.offset += len(chunk.data)
        return len(chunk.data)

    def finish(self) -> None:
        """Give the file its name.

        Raises:
            ConnectionLostError: The file is not whole yet.
            ConflictError: It is not what was announced; what came is removed.
        """
        assert self._file is not None, "begin() comes first"  # noqa: S101 # a defect otherwise
        if self.offset < self._size:
            raise error_for("TRANSFER_INTERRUPTED", f"{self.path!r} ended before its last byte.")
        found = self._digest.hexdigest()
        if found != self._sha256:
            self.close()
            self._draft.unlink()
            raise error_for(
                "DIGEST_MISMATCH",
                f"The file {self.path!r} that came has the SHA-256 {found}, and should have "
                f"{self._sha256}. What came is removed: download it again.",
                metadata={"path": self.path, "expected": self._sha256, "found": found},
            )
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        self._draft.replace(self._target)

    def close(self) -> None:
        """Close the file; what came stays for another try."""
        if self._file is not None:
            with suppress(OSError):  # a full disk was told before
                self._file.close()
            self._file = None
