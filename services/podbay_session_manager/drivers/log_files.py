"""Logs of replicas on disk: files named by the position of their first byte.

The position of a byte never changes, also when older files are dropped: whoever follows a log
goes on from a position, and sees that something is missing by the gap.
"""

from __future__ import annotations

import time
from pathlib import Path

from podbay_session_manager.drivers.contract import LogChunk
from podbay_session_manager.drivers.log_times import note_time, times_of

__all__ = ["append_log", "log_folder", "read_log_files"]

_RETRIES = 3


def log_folder(replica: Path) -> Path:
    """Return where the log of a replica lies, in the replica's folder."""
    return replica / "log"


def append_log(folder: Path, text: str) -> None:
    """Append text to a log that this process writes itself and that stays small."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{0:020d}"
    with path.open("a", encoding="utf-8") as file:
        note_time(path, file.tell(), time.time_ns())
        file.write(text)


def read_log_files(folder: Path, offset: int, limit: int) -> LogChunk | None:
    """Return a piece of a log; None where there is no log.

    Args:
        folder: Where the log lies.
        offset: The position to read from; a negative one counts from the end.
        limit: How many bytes to return at most.
    """
    for _ in range(_RETRIES):
        try:
            return _read(folder, offset, limit)
        except FileNotFoundError:
            # A file was dropped in between, or there is no folder; the next look tells.
            if not folder.is_dir():
                return None
    return None


def _read(folder: Path, offset: int, limit: int) -> LogChunk | None:
    bases = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    if not bases:
        return LogChunk(offset=0, data=b"", end=0)
    end = bases[-1] + (folder / f"{bases[-1]:020d}").stat().st_size
    wanted = end + offset if offset < 0 else offset
    start = min(max(wanted, bases[0]), end)
    pieces: list[bytes] = []
    times: list[tuple[int, float | None]] = []
    position = start
    for base, following in zip(bases, [*bases[1:], end], strict=True):
        if following <= position or limit <= 0:
            continue
        path = folder / f"{base:020d}"
        with path.open("rb") as file:
            file.seek(position - base)
            data = file.read(min(limit, following - position))
        pieces.append(data)
        times += times_of(path, position, position + len(data))
        position += len(data)
        limit -= len(data)
    return LogChunk(offset=start, data=b"".join(pieces), end=end, times=tuple(times))
