"""When which byte of a log was written: notes in files beside those of the log.

A note is 16 bytes: the position of a byte, and the time in microseconds since 1970, both as
big-endian numbers. It holds for the bytes from there to the next note; notes come in the order of
their positions, and one file begins with one for its first byte.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["NOTE_BYTES", "encode_note", "note_time", "times_file", "times_of"]

NOTE_BYTES: Final = 16
_NOTE: Final = NOTE_BYTES
_BLOCK: Final = 64 * 1024 // _NOTE


def times_file(log_file: Path) -> Path:
    """Return where the notes of a file of a log are."""
    return log_file.with_name(f"{log_file.name}.times")


def note_time(log_file: Path, position: int, time_ns: int) -> None:
    """Note when what is written next will have been written.

    Args:
        log_file: The file of the log.
        position: The position of the next byte.
        time_ns: The time, in nanoseconds since 1970.
    """
    with times_file(log_file).open("ab") as file:
        file.write(encode_note(position, time_ns))


def encode_note(position: int, time_ns: int) -> bytes:
    """Return a note: a position, and a time in nanoseconds since 1970."""
    return position.to_bytes(8, "big") + (time_ns // 1000).to_bytes(8, "big")


def times_of(log_file: Path, start: int, end: int) -> list[tuple[int, float | None]]:
    """Return the times of some bytes of one file of a log.

    Args:
        log_file: The file of the log.
        start: The position of the first byte.
        end: The position after the last byte.

    Returns:
        Positions in order, the first of them `start`, each with the time in seconds since 1970 at
        which the bytes from there on were written; None where nobody has noted it.
    """
    try:
        file = os.open(times_file(log_file), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return [(start, None)]
    try:
        # One that is being written is left for the next look.
        count = os.fstat(file).st_size // _NOTE
        index = _last_until(file, count, start)
        found: list[tuple[int, float | None]] = [(start, None)] if index < 0 else []
        index = max(index, 0)
        while index < count:
            block = os.pread(file, _BLOCK * _NOTE, index * _NOTE)
            for at in range(0, len(block) - _NOTE + 1, _NOTE):
                position, time = _read(block[at : at + _NOTE])
                if position >= end:
                    return found
                found.append((max(position, start), time))
            index += _BLOCK
        return found
    finally:
        os.close(file)


def _last_until(file: int, count: int, position: int) -> int:
    """Return the index of the last note at or before a position; -1 where there is none."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if _read(os.pread(file, _NOTE, middle * _NOTE))[0] <= position:
            low = middle + 1
        else:
            high = middle
    return low - 1


def _read(note: bytes) -> tuple[int, float]:
    return int.from_bytes(note[:8], "big"), int.from_bytes(note[8:], "big") / 1_000_000
