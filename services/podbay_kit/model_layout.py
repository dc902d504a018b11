"""How the files of a model lie in a folder: the plan, which is pure, and the act."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from podbay.schema.checks import check_portable_path
from podbay_kit.blob_files import remove_tree, sync_folder

__all__ = ["LaidFile", "Layout", "lay_out", "plan_layout"]

_FICLONE: Final = 0x40049409
# The file system has no hard links, has no room for another one, or is another one.
_NO_LINK: Final = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
)
_FILE_MODE: Final = 0o444
_FOLDER_MODE: Final = 0o555


@dataclass(frozen=True, slots=True)
class LaidFile:
    """A file of a model.

    Attributes:
        path: Where it lies, relative and portable.
        sha256: What it holds.
        size: Its length in bytes.
    """

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Layout:
    """What is to be made in an empty folder.

    Attributes:
        folders: The folders, each after the one that holds it.
        files: The files, ordered by path.
    """

    folders: tuple[str, ...]
    files: tuple[LaidFile, ...]

    @property
    def content(self) -> dict[str, int]:
        """The size of each content by its SHA-256: equal files count once."""
        return {file.sha256: file.size for file in self.files}


def plan_layout(files: Iterable[LaidFile]) -> Layout:
    """Return how files lie in a folder.

    Raises:
        ValueError: A path is not portable, comes twice, or is that of a folder as well.
    """
    ordered = sorted(files, key=lambda file: file.path)
    folders: set[str] = set()
    paths: set[str] = set()
    for file in ordered:
        check_portable_path(file.path)
        if file.path in paths:
            raise ValueError(f"the path {file.path!r} comes twice")
        paths.add(file.path)
        folders.update(str(parent) for parent in list(PurePosixPath(file.path).parents)[:-1])
    both = min(folders & paths, default=None)
    if both is not None:
        raise ValueError(f"the path {both!r} is that of a file and of a folder")
    return Layout(tuple(sorted(folders)), tuple(ordered))


def lay_out(layout: Layout, find: Callable[[str], Path], target: Path) -> None:
    """Make a read-only folder with the files of a layout, at once and whole.

    Files are hard links where the file system has them, or else copies (that share their blocks
    where it can do that). Blocks: call it in a thread.

    Args:
        layout: What lies where.
        find: Returns the verified file of a digest.
        target: The folder to make; it must not be there.
    """
    draft = target.with_name(f".{target.name}.draft")
    remove_tree(draft)
    draft.mkdir(mode=0o700)
    for folder in layout.folders:
        (draft / folder).mkdir(mode=0o700)
    for file in layout.files:
        _link(find(file.sha256), draft / file.path)
    for folder in (*reversed(layout.folders), "."):
        sync_folder(draft / folder)
        (draft / folder).chmod(_FOLDER_MODE)
    draft.rename(target)
    sync_folder(target.parent)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("xb") as written:
        try:
            fcntl.ioctl(written.fileno(), _FICLONE, read.fileno())
        except OSError:
            shutil.copyfileobj(read, written, 1 << 20)
        written.flush()
        os.fchmod(written.fileno(), _FILE_MODE)
        os.fsync(written.fileno())
