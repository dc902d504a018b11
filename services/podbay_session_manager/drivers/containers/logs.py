"""Logs of containers, taken over into files of this machine: they outlive container and node.

The engine's own log has no positions and forgets its beginning. What is new in it is appended to
files here whenever somebody reads, and once more before the container is removed. Both are
bounded, and keep what is newest.
"""

from __future__ import annotations

import asyncio
import calendar
import json
import logging
import shutil
import time
import zlib
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

from podbay_session_manager.drivers.containers.calls import EngineCalls
from podbay_session_manager.drivers.containers.engine import EngineClient, EngineNotFoundError
from podbay_session_manager.drivers.containers.locks import KeyedLocks
from podbay_session_manager.drivers.contract import LogChunk
from podbay_session_manager.drivers.log_files import log_folder, read_log_files
from podbay_session_manager.drivers.log_times import NOTE_BYTES, encode_note, times_file

__all__ = ["ContainerLogs", "split_message"]

_LOG = logging.getLogger(__name__)
_STATE: Final = "taken.json"
# What one look takes over at most: a container that floods its log must not hold up a thread.
_LOOK_BYTES: Final = 32 << 20
_LOOK_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 0.5
_FLUSH_BYTES: Final = 1 << 20
_NANOS: Final = 1_000_000_000
# What was written so soon after a noted time counts as written at that time.
_TIME_STEP_NANOS: Final = 10_000_000
_TIMES_BYTES: Final = 2 << 20
# The engine notes the times of the two outputs apart, and writes them down a little out of order.
_DISORDER_NANOS: Final = _NANOS
_RECENT: Final = 2048
# How many looks an ended container's log may take.
_LOOKS: Final = 16


class LogUnwritableError(Exception):
    """A log cannot be written here. The text says why."""


@dataclass(slots=True)
class _Taken:
    """How much of a container's log was taken over."""

    mark: int = 0
    """What is older was taken over, in nanoseconds since 1970."""
    recent: list[tuple[int, int]] = field(default_factory=list)
    """The other messages that were: their times and checksums."""
    whole: bool = False
    """Whether the container had ended, so that nothing more will come."""


class ContainerLogs:
    """The logs of one engine's containers.

    Args:
        calls: The engine.
        folder: Where they are kept.
        limit: How many bytes of each are kept; up to half more for a while.
    """

    def __init__(self, calls: EngineCalls, folder: Path, limit: int) -> None:
        self._calls = calls
        self._root = folder
        self._segment = max(limit // 2, 1 << 16)
        self._locks = KeyedLocks()
        self._looked_at: dict[str, float] = {}
        self._whole: set[str] = set()

    async def take_over(
        self, replica_id: str, container: str, *, ended: bool, patient: bool = False
    ) -> None:
        """Append what is new in a container's log to the files here. Idempotent.

        Args:
            replica_id: The replica.
            container: Its container.
            ended: Whether the container has ended, so that this is the last of it.
            patient: Whether a look that was had just now will do.

        Raises:
            DriverUnreachableError: The engine cannot be reached.
            EngineError: The engine has no log of the container.
        """
        async with self._locks.of(replica_id):
            loop = asyncio.get_running_loop()
            if replica_id in self._whole:
                return
            if patient and not ended:
                since = loop.time() - self._looked_at.get(replica_id, float("-inf"))
                if since < _PAUSE_SECONDS:
                    return
            folder = self._folder(replica_id)

            def work(engine: EngineClient) -> bool:
                return _Taker(folder, self._segment).run(engine, container, ended=ended)

            try:
                for _ in range(_LOOKS if ended else 1):
                    if await self._calls.stream(work):
                        self._whole.add(replica_id)
                        break
            except EngineNotFoundError:
                return
            except LogUnwritableError as error:
                # A full disk here loses lines, and stops nothing.
                _LOG.warning("the log of %s cannot be kept: %s", replica_id, error)
            self._looked_at[replica_id] = loop.time()

    async def read(self, replica_id: str, offset: int, limit: int) -> LogChunk | None:
        """Return a piece of what was taken over; None where nothing was."""
        return await asyncio.to_thread(
            read_log_files, log_folder(self._folder(replica_id)), offset, limit
        )

    async def drop(self, keep: frozenset[str]) -> None:
        """Delete the logs of replicas that are not in `keep`."""
        kept = {quote(replica_id, safe="") for replica_id in keep}

        def work() -> None:
            if self._root.is_dir():
                for path in self._root.iterdir():
                    if path.name not in kept:
                        shutil.rmtree(path, ignore_errors=True)

        await asyncio.to_thread(work)

    def forget(self, replica_id: str) -> None:
        """Note that a replica's container is gone: its log is what is here."""
        self._looked_at.pop(replica_id, None)
        self._whole.discard(replica_id)

    def _folder(self, replica_id: str) -> Path:
        return self._root / quote(replica_id, safe="")


class _Taker:
    """One look at one container's log; blocks."""

    def __init__(self, folder: Path, segment: int) -> None:
        self._folder = log_folder(folder)
        self._state_file = folder / _STATE
        self._segment = segment
        self._taken = self._load()
        self._known = Counter(self._taken.recent)
        self._recent = deque(self._taken.recent)
        self._forgotten = self._taken.mark - 1
        self._buffer: list[tuple[int, bytes]] = []
        self._buffered = 0
        self._bytes = 0
        self._until = time.monotonic() + _LOOK_SECONDS
        self._cut = False

    def run(self, engine: EngineClient, container: str, *, ended: bool) -> bool:
        """Take over what is new; return whether that is all there will ever be.

        Raises:
            LogUnwritableError: It cannot be written here.
        """
        if self._taken.whole:
            return True
        # Somewhat too early: what is known already is left out by its exact time.
        engine.log(container, self._taken.mark // 1_000_000 / 1e3, self._take)
        self._flush()
        self._settle()
        self._taken.whole = ended and not self._cut
        self._save()
        return self._taken.whole

    def _take(self, message: bytes) -> bool:
        parsed = split_message(message)
        if parsed is None:
            return True
        moment, text = parsed
        key = (moment, zlib.crc32(text))
        if moment < self._taken.mark:
            return True
        if self._known[key]:
            self._known[key] -= 1
            return True
        self._recent.append(key)
        if len(self._recent) > 2 * _RECENT:
            self._forgotten = max(self._forgotten, self._recent.popleft()[0])
        self._buffer.append((moment, text))
        self._buffered += len(text)
        self._bytes += len(text)
        if self._buffered >= _FLUSH_BYTES:
            self._flush()
        self._cut = self._bytes >= _LOOK_BYTES or time.monotonic() >= self._until
        return not self._cut

    def _settle(self) -> None:
        """Note what was taken over, for the next look."""
        times = sorted(moment for moment, _ in self._recent)
        if not times:
            return
        mark = max(self._forgotten + 1, times[-1] - _DISORDER_NANOS)
        if len(times) > _RECENT:
            mark = max(mark, times[-_RECENT])
        self._taken.mark = mark
        self._taken.recent = [key for key in self._recent if key[0] >= mark]

    def _flush(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._write()
        except OSError as error:
            # Not to be taken for one of the connection that the log comes over.
            raise LogUnwritableError(error.strerror) from error

    def _write(self) -> None:
        messages, self._buffer, self._buffered = self._buffer, [], 0
        bases = sorted(int(p.name) for p in self._folder.iterdir() if p.name.isdecimal())
        waiting = iter(messages)
        message = next(waiting, None)
        while message is not None:
            path, size, noted = self._segment_to_write(bases)
            with path.open("ab") as file, times_file(path).open("ab") as times:
                last = -1
                while message is not None and size < self._segment and noted < _TIMES_BYTES:
                    moment, text = message
                    # The clock of the node may have been set back.
                    if last < 0 or not 0 <= moment - last < _TIME_STEP_NANOS:
                        times.write(encode_note(int(path.name) + size, moment))
                        last = moment
                        noted += NOTE_BYTES
                    file.write(text)
                    size += len(text)
                    message = next(waiting, None)

    def _segment_to_write(self, bases: list[int]) -> tuple[Path, int, int]:
        """Return the file to write to, its size, and that of its times; drop what is too old."""
        path = self._folder / f"{bases[-1] if bases else 0:020d}"
        size = path.stat().st_size if bases else 0
        times = times_file(path)
        noted = times.stat().st_size if times.exists() else 0
        if bases and (size >= self._segment or noted >= _TIMES_BYTES):
            path = self._folder / f"{bases[-1] + size:020d}"
            size = noted = 0
        if not bases or int(path.name) != bases[-1]:
            bases.append(int(path.name))
        for old in bases[:-2]:
            stale = self._folder / f"{old:020d}"
            stale.unlink(missing_ok=True)
            times_file(stale).unlink(missing_ok=True)
        del bases[:-2]
        return path, size, noted

    def _load(self) -> _Taken:
        try:
            state = json.loads(self._state_file.read_text())
            recent = [(moment, checksum) for moment, checksum in state.pop("recent")]
            return _Taken(**state, recent=recent)
        except (OSError, ValueError, TypeError, KeyError):
            return _Taken()

    def _save(self) -> None:
        new = self._state_file.with_suffix(".new")
        try:
            new.write_text(json.dumps(asdict(self._taken)))
            new.replace(self._state_file)
        except OSError as error:
            raise LogUnwritableError(error.strerror) from error


def split_message(message: bytes) -> tuple[int, bytes] | None:
    """Return the time of a message of a log, in nanoseconds since 1970, and its text. Pure.

    Args:
        message: As "2026-01-31T01:02:03.123456789Z text".
    """
    stamp, space, text = message.partition(b" ")
    if not space:
        return None
    try:
        whole, _, rest = stamp.decode("ascii").rstrip("Z").partition(".")
        seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
        return seconds * _NANOS + int(rest.ljust(9, "0")[:9] or "0"), text
    except ValueError:
        return None
