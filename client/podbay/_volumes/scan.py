"""Which files of a folder make a model."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podbay._core.wire_errors import invalid
from podbay.schema.checks import check_portable_path
from podbay.schema.platform import File

__all__ = ["LeftOut", "LocalFile", "left_out", "locate", "scan"]

_WHAT = "The volume"


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on the disk.

    Attributes:
        path: Its path in the volume, with `/` between the parts.
        location: Where it is.
        size: Its length in bytes.
    """

    path: str
    location: Path
    size: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What of a folder is no file of a model although no pattern says so.

    Attributes:
        links: Paths of symbolic links, where they do not count as what they point to.
        special: Paths of what is neither a file nor a folder, as pipes and sockets.
    """

    links: tuple[str, ...]
    special: tuple[str, ...]


def left_out(
    root_directory: str | os.PathLike[str],
    *,
    include_symlinks: bool = False,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> LeftOut:
    """Return what `scan` passes over, ordered by path; its arguments and errors are those of it."""
    chosen = _chooser(include, exclude)
    links: list[str] = []
    special: list[str] = []
    for _ in _walk(Path(root_directory), include_symlinks, links.append, special.append):
        pass
    return LeftOut(
        tuple(sorted(path for path in links if chosen(path))),
        tuple(sorted(path for path in special if chosen(path))),
    )


def scan(
    root_directory: str | os.PathLike[str],
    *,
    include_symlinks: bool = False,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> list[LocalFile]:
    """Return the files of a folder, ordered by path.

    Args:
        root_directory: The folder.
        include_symlinks: Whether symbolic links count as what they point to.
        include: Patterns as in a .gitignore file; only what matches is taken.
        exclude: Patterns likewise; what matches is left out after all.

    Raises:
        InvalidRequestError: The folder is not one, has no such files, or one of them cannot be
            read or has a name that is not portable.
    """
    root = Path(root_directory)
    if not root.is_dir():
        raise invalid("root_directory", f"{str(root)!r} is not a folder", _WHAT)
    chosen = _chooser(include, exclude)
    files = sorted(
        (file for file in _walk(root, include_symlinks) if chosen(file.path)),
        key=lambda file: file.path,
    )
    if not files:
        what = "has no files" if include is None and exclude is None else "has no such files"
        links = left_out(
            root, include_symlinks=include_symlinks, include=include, exclude=exclude
        ).links
        if links:
            what += f", only symbolic links ({links[0]!r}): include_symlinks takes them"
        raise invalid("root_directory", f"{str(root)!r} {what}", _WHAT)
    for file in files:
        _check(file)
    return files


def locate(root_directory: str | os.PathLike[str], files: Iterable[File]) -> list[LocalFile]:
    """Return where the files of a model lie in a folder, in their order.

    Raises:
        InvalidRequestError: One is not there, has another size, or cannot be read.
    """
    root = Path(root_directory)
    if not root.is_dir():
        raise invalid("root_directory", f"{str(root)!r} is not a folder", _WHAT)
    located = []
    for file in files:
        # It comes from a service, and must not lead out of the folder.
        found = LocalFile(file.path, root / file.path, file.size)
        _check_name(found)
        if not found.location.is_file():
            raise invalid(file.path, f"is not a file in {str(root)!r}", _WHAT)
        size = found.location.stat().st_size
        if size != file.size:
            raise invalid(
                file.path, f"has {size} bytes, and the model was created with {file.size}", _WHAT
            )
        _check_readable(found)
        located.append(found)
    return located


def _chooser(include: Sequence[str] | None, exclude: Sequence[str] | None) -> Callable[[str], bool]:
    taken = _spec(include, "include") if include is not None else None
    left_out = _spec(exclude, "exclude") if exclude is not None else None

    def chosen(path: str) -> bool:
        if taken is not None and not taken.match_file(path):
            return False
        return left_out is None or not left_out.match_file(path)

    return chosen


def _spec(patterns: Iterable[str], name: str) -> Any:
    if isinstance(patterns, str):
        raise invalid(name, "must be a list of patterns", _WHAT)
    import pathspec  # noqa: PLC0415 # only those who have patterns wait for it

    try:
        return pathspec.GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise invalid(name, f"is not a list of gitignore patterns: {error}", _WHAT) from None


def _walk(
    root: Path,
    include_symlinks: bool,
    link: Callable[[str], None] = lambda _: None,
    special: Callable[[str], None] = lambda _: None,
) -> Iterator[LocalFile]:
    """Yield the regular files below a folder; no folder is entered within itself.

    Args:
        root: The folder.
        include_symlinks: Whether symbolic links count as what they point to.
        link: Given the path of each link that is passed over.
        special: Given the path of each thing that is neither a file nor a folder.
    """
    waiting: list[tuple[Path, str, tuple[tuple[int, int], ...]]]
    waiting = [(root, "", (_identity(root),))]
    while waiting:
        folder, prefix, above = waiting.pop()
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            shown = prefix.rstrip("/") or "."
            raise invalid(shown, f"cannot be read: {error.strerror}", _WHAT) from None
        for name in names:
            location, path = folder / name, f"{prefix}{name}"
            if location.is_symlink() and not include_symlinks:
                link(path)
                continue
            try:
                found = location.stat()
            except OSError as error:
                raise invalid(path, f"cannot be read: {error.strerror}", _WHAT) from None
            if stat.S_ISDIR(found.st_mode):
                identity = (found.st_dev, found.st_ino)
                if identity in above:
                    raise invalid(path, "is a link to a folder that it is in", _WHAT)
                waiting.append((location, f"{path}/", (*above, identity)))
            elif stat.S_ISREG(found.st_mode):
                yield LocalFile(path, location, found.st_size)
            else:
                special(path)


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _check(file: LocalFile) -> None:
    _check_name(file)
    _check_readable(file)


def _check_name(file: LocalFile) -> None:
    try:
        file.path.encode()
        check_portable_path(file.path)
    except UnicodeEncodeError:
        raise invalid(ascii(file.path), "the name is not UTF-8", _WHAT) from None
    except ValueError as error:
        way_out = "rename it, or leave it out with exclude"
        raise invalid(ascii(file.path), f"{error}: {way_out}", _WHAT) from None


def _check_readable(file: LocalFile) -> None:
    if not os.access(file.location, os.R_OK):
        raise invalid(file.path, "may not be read: Permission denied", _WHAT)
