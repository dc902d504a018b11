"""Folders as tar archives, made while they are sent."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

__all__ = ["FilesUnreadableError", "empty_file", "folder_entry", "size_of", "tar_of"]

_BLOCK: Final = 1 << 20
_END: Final = b"\0" * (2 * tarfile.BLOCKSIZE)

Moved = Callable[[int], None]
"""Is told how many bytes were given so far."""


class FilesUnreadableError(Exception):
    """Files that are to be copied cannot be read. The text says why."""


def folder_entry(name: str, mode: int) -> bytes:
    """Return an archive with nothing but a folder."""
    return _entry(name, tarfile.DIRTYPE, mode) + _END


def empty_file(name: str) -> bytes:
    """Return an archive with nothing but an empty file."""
    return _entry(name, tarfile.REGTYPE, 0o444) + _END


def tar_of(folder: Path, moved: Moved) -> Iterator[bytes]:
    """Give the files of a folder as a tar archive, as it is made; any user may read them.

    Args:
        folder: The folder; links that lead out of it are left out.
        moved: Is told how many bytes of files were given so far.

    Raises:
        FilesUnreadableError: A file cannot be read.
    """
    try:
        yield from _pieces(folder, moved)
    except OSError as error:
        # Not to be taken for one of the connection that the archive goes over.
        raise FilesUnreadableError(error.strerror or "they changed meanwhile") from error


def _pieces(folder: Path, moved: Moved) -> Iterator[bytes]:
    done = 0
    for path in _below(folder):
        name = str(path.relative_to(folder))
        if path.is_dir():
            yield _entry(name, tarfile.DIRTYPE, 0o755)
            continue
        size = path.stat().st_size
        mode = 0o555 if path.stat().st_mode & 0o100 else 0o444
        yield _entry(name, tarfile.REGTYPE, mode, size)
        left = size
        with path.open("rb") as file:
            while left:
                data = file.read(min(_BLOCK, left))
                if not data:
                    raise FilesUnreadableError("a file became shorter meanwhile")
                left -= len(data)
                done += len(data)
                yield data
                moved(done)
        yield b"\0" * (-size % tarfile.BLOCKSIZE)
    yield _END


def _below(folder: Path) -> Sequence[Path]:
    root = folder.resolve()
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.resolve().is_relative_to(root) and (path.is_dir() or path.is_file())
    ]


def _entry(name: str, kind: bytes, mode: int, size: int = 0) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size = kind, mode, size
    return entry.tobuf(tarfile.PAX_FORMAT)


def size_of(folder: Path) -> int:
    """Return the bytes of the files that `tar_of` would give.

    Raises:
        FilesUnreadableError: They cannot be read.
    """
    try:
        return sum(path.stat().st_size for path in _below(folder) if path.is_file())
    except OSError as error:
        raise FilesUnreadableError(error.strerror or "they changed meanwhile") from error
