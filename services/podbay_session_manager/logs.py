"""Logs of replicas as lines, through the drivers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from podbay_session_manager.drivers.contract import (
    DriverUnreachableError,
    LogChunk,
    ReplicaDriver,
    UnknownReplicaError,
)
from podbay_session_manager.texts import bounded_tail

__all__ = ["Line", "LineReader", "read_tail", "split_lines", "timed"]

_LOG = logging.getLogger(__name__)
_CHUNK: Final = 256 * 1024
_MAX_LINE: Final = 16 * 1024
_TAIL_BYTES: Final = 16 * 1024
_TAIL_LINES: Final = 50
_TAIL_KEPT_BYTES: Final = 8192


@dataclass(frozen=True, slots=True)
class Line:
    """One line."""

    text: str
    """The line without its end; a longer one is cut."""
    offset: int
    """The position after the line."""
    time: float | None = None
    """When its end was written, in seconds since 1970; None where that is not known."""


def split_lines(data: bytes, start: int, *, final: bool) -> tuple[list[Line], int]:
    """Return the whole lines in a piece of a log, and the position after the last of them. Pure.

    Args:
        data: The piece.
        start: The position of its first byte.
        final: Whether nothing more will come, so that what has no end is a line, too.
    """
    lines: list[Line] = []
    position = 0
    while position < len(data):
        end = data.find(b"\n", position)
        if end < 0 and not final and len(data) - position < _MAX_LINE:
            break
        if end < 0:
            end = len(data)
        lines.append(Line(_text(data[position:end]), start + min(end + 1, len(data))))
        position = end + 1
    return lines, start + min(position, len(data))


def timed(lines: Sequence[Line], times: Sequence[tuple[int, float | None]], end: int) -> list[Line]:
    """Return lines with the times of their ends. Pure.

    Args:
        lines: Lines of a piece of a log, in order.
        times: Of `LogChunk`.
        end: The position after the piece.
    """
    if not times:
        return list(lines)
    found: list[Line] = []
    index = -1
    for line in lines:
        last = min(line.offset, end) - 1
        while index + 1 < len(times) and times[index + 1][0] <= last:
            index += 1
        found.append(replace(line, time=times[index][1]) if index >= 0 else line)
    return found


def _text(line: bytes) -> str:
    text = line[:_MAX_LINE].decode(errors="replace").rstrip("\r")
    return text if len(line) <= _MAX_LINE else f"{text}… (cut)"


class LineReader:
    """Reads the log of one replica, line by line and on.

    Args:
        driver: The replica's driver.
        replica_id: The replica.
    """

    def __init__(self, driver: ReplicaDriver, replica_id: str) -> None:
        self._driver = driver
        self._replica_id = replica_id
        self._position = 0

    @property
    def position(self) -> int:
        """Where the next line begins."""
        return self._position

    def go_to(self, position: int) -> None:
        """Go on from a position, as the offset of a line that was read before."""
        self._position = position

    async def skip_to_tail(self, count: int) -> None:
        """Go to the last `count` lines.

        Raises:
            DriverUnreachableError: The log cannot be read now.
        """
        want = 64 * 1024
        while True:
            chunk = await self._read(-want)
            if chunk is None:
                return
            ends = [i for i, byte in enumerate(chunk.data) if byte == 10]
            # A last line without an end counts, too.
            needed = count if chunk.data.endswith(b"\n") else count - 1
            if len(ends) > needed or chunk.offset == 0 or len(chunk.data) < want:
                break
            want *= 4
        if count <= 0:
            self._position = chunk.end
        elif len(ends) > needed:
            self._position = chunk.offset + ends[-needed - 1] + 1
        else:
            self._position = chunk.offset

    async def read(self, *, final: bool) -> list[Line]:
        """Return the next lines; none where there are none now.

        Args:
            final: Whether nothing more will come, so that what has no end is a line, too.

        Raises:
            DriverUnreachableError: The log cannot be read now.
        """
        chunk = await self._read(self._position)
        if chunk is None:
            return []
        lines: list[Line] = []
        if chunk.offset > self._position:
            # Logs are bounded; whoever reads on must see that something is missing.
            missing = chunk.offset - self._position
            lines.append(Line(f"[podbay: {missing} older bytes are not kept]", chunk.offset))
        last = final and chunk.offset + len(chunk.data) >= chunk.end
        found, self._position = split_lines(chunk.data, chunk.offset, final=last)
        return lines + timed(found, chunk.times, chunk.offset + len(chunk.data))

    async def _read(self, offset: int) -> LogChunk | None:
        limit = max(_CHUNK, -offset)
        try:
            return await self._driver.read_log(self._replica_id, offset, limit)
        except UnknownReplicaError:
            # It never wrote anything: its start failed.
            return None


async def read_tail(driver: ReplicaDriver, replica_id: str) -> tuple[str, ...]:
    """Return the last lines of a log, for a status; none where it cannot be read."""
    try:
        chunk = await driver.read_log(replica_id, -_TAIL_BYTES, _TAIL_BYTES)
    except (UnknownReplicaError, DriverUnreachableError) as error:
        _LOG.debug("no log of replica %s: %s", replica_id, error)
        return ()
    lines, _ = split_lines(chunk.data, chunk.offset, final=True)
    return bounded_tail([line.text for line in lines][-_TAIL_LINES:], _TAIL_KEPT_BYTES)
