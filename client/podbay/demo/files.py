"""Real input for the demo: files of many kinds that this machine has."""

import os
import stat
import sysconfig
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

__all__ = ["NotEnoughFilesError", "default_roots", "find_files"]

LEAST_BYTES = 16
MOST_BYTES = 1 << 20

# The search ends after so many folders of a root and takes so many files of each: enough for
# variety, and over in less than a second also on a machine with millions of files.
_MOST_FOLDERS = 1500
_MOST_ENTRIES = 2000
_MOST_PER_FOLDER = 24

_COMMON_SUFFIXES = 40


class NotEnoughFilesError(Exception):
    """The machine has fewer files of the right size than were asked for."""


def default_roots() -> list[Path]:
    """Where files are looked for: the standard library, /usr/share, the installed packages."""
    names = [sysconfig.get_path("stdlib"), "/usr/share", sysconfig.get_path("purelib")]
    return [Path(name) for name in names]


def find_files(count: int = 200, roots: Sequence[Path] | None = None) -> list[Path]:
    """Find regular, readable files of 16 bytes to 1 MiB, of many suffixes.

    The order is the same at every call as long as the files are the same: one file of each of the
    40 most frequent suffixes in turn, then of the others. Symbolic links are not followed.

    Args:
        count: How many files to find.
        roots: The folders to search, `default_roots()` if not given; one that is not there is
            passed over.

    Returns:
        `count` files.

    Raises:
        ValueError: If `count` is less than 1.
        NotEnoughFilesError: If there are fewer.
    """
    if count < 1:
        raise ValueError(f"count is {count}, and has to be 1 or more")
    folders = default_roots() if roots is None else list(roots)
    by_suffix: defaultdict[str, dict[Path, None]] = defaultdict(dict)
    for root in folders:
        for path in _files_below(root):
            by_suffix[path.suffix.lower()][path] = None
    kinds = sorted(by_suffix, key=lambda suffix: (-len(by_suffix[suffix]), suffix))
    groups = (kinds[:_COMMON_SUFFIXES], kinds[_COMMON_SUFFIXES:])
    found = [path for group in groups for path in _in_turn([[*by_suffix[kind]] for kind in group])]
    if len(found) < count:
        places = ", ".join(str(folder) for folder in folders)
        raise NotEnoughFilesError(
            f"found {len(found)} files of {LEAST_BYTES} bytes to {MOST_BYTES >> 20} MiB in "
            f"{places}, and {count} are needed; name further folders"
        )
    return found[:count]


def _in_turn(lists: Sequence[Sequence[Path]]) -> Iterator[Path]:
    for turn in zip_longest(*lists):
        yield from (path for path in turn if path is not None)


def _files_below(root: Path) -> Iterator[Path]:
    """Go through a root, folder by folder, the upper ones first."""
    folders = deque([root])
    for _ in range(_MOST_FOLDERS):
        if not folders:
            return
        below, files = _entries(folders.popleft())
        folders.extend(below)
        yield from files


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Give a folder's folders and some of its usable files; none if it cannot be read."""
    below: list[Path] = []
    files: list[Path] = []
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)[:_MOST_ENTRIES]
    except OSError:
        return below, files
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                below.append(Path(entry.path))
            elif len(files) < _MOST_PER_FOLDER and _usable(entry):
                files.append(Path(entry.path))
        except OSError:
            continue  # gone since the scan
    return below, files


def _usable(entry: os.DirEntry[str]) -> bool:
    status = entry.stat(follow_symlinks=False)
    return (
        stat.S_ISREG(status.st_mode)
        and LEAST_BYTES <= status.st_size <= MOST_BYTES
        and os.access(entry.path, os.R_OK)
    )
