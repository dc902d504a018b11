"""The place of one worker of a router: its processes follow each other, without a gap."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from podbay_inference_router.exposition import NUMBERS_PREFIX, WorkerNumbers
from podbay_kit.process import PARENT_VARIABLE
from podbay_kit.starting import StartError

__all__ = ["READY_LINE", "Slot", "restart_pause"]

_LOG = logging.getLogger(__name__)

READY_LINE: Final = "ready"
"""What a worker tells the process that started it, on its standard output."""

_FIRST_PAUSE: Final = 0.1
_LAST_PAUSE: Final = 5.0
# A worker that lived this long was well: the next one starts without a long pause.
_WELL_SECONDS: Final = 10.0
_START_ERROR: Final = 2
_KILL_AFTER: Final = 5.0
# A line holds a worker's numbers, those of every replica among them.
_MAX_LINE: Final = 64 << 20


def restart_pause(short_lives: int) -> float:
    """Give the seconds before a worker is started again.

    Args:
        short_lives: How many workers in its place died young in a row.
    """
    return float(min(_LAST_PAUSE, _FIRST_PAUSE * 2 ** min(max(short_lives - 1, 0), 10)))


class _Running:
    """One process, from its start to its end."""

    def __init__(self, process: asyncio.subprocess.Process, numbers: WorkerNumbers) -> None:
        self._process = process
        self._numbers = numbers
        self.ready = asyncio.Event()
        """Set when it serves."""
        self.ended = asyncio.create_task(self._listen(), name=f"worker-process-{process.pid}")
        """Done when it has ended; gives its exit code."""

    async def end(self, drain_seconds: float) -> None:
        """Have it drain, and kill it where it does not end."""
        if self.ended.done():
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        done, _ = await asyncio.wait({self.ended}, timeout=drain_seconds + _KILL_AFTER)
        if not done:
            _LOG.error("worker process %d does not end: killing it", self._process.pid)
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await asyncio.wait({self.ended})

    async def _listen(self) -> int:
        process, pid = self._process, self._process.pid
        if process.stdout is not None:
            async for line in process.stdout:
                text = line.decode(errors="replace").strip()
                if text == READY_LINE:
                    self.ready.set()
                elif text.startswith(NUMBERS_PREFIX):
                    self._numbers.take(pid, text.removeprefix(NUMBERS_PREFIX))
        code = await process.wait()
        self._numbers.end(pid)
        return code


class Slot:
    """The place of one worker.

    Args:
        arguments: The command line of its processes.
        index: Which of the workers it is, from 0.
        drain_seconds: How long calls may finish when a process is to end.
        numbers: Takes what its processes count.
        descriptors: The files that they inherit.
        takes_over: Whether workers of an earlier router serve until the first process here does.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        index: int,
        drain_seconds: float,
        numbers: WorkerNumbers,
        descriptors: Sequence[int],
        *,
        takes_over: bool = False,
    ) -> None:
        self._descriptors = tuple(descriptors)
        self._takes_over = takes_over
        self._arguments = tuple(arguments)
        self._drain_seconds = drain_seconds
        self._numbers = numbers
        self._live: set[_Running] = set()
        self._stopping = False
        self._renewal: asyncio.Future[None] | None = None
        self._wanted = asyncio.Event()
        self.index = index
        self.ready = asyncio.Event()
        """Set when the first process in this place serves."""

    async def run(self) -> None:
        """Start a worker, and another one whenever it ends, until stopped."""
        loop = asyncio.get_running_loop()
        short_lives = 0
        while not self._stopping:
            began = loop.time()
            code = await self._outlast(await self._start())
            self._renewed()
            if self._stopping:
                break
            if code == _START_ERROR and not self.ready.is_set():
                raise StartError(f"Worker {self.index} could not start; its message is above.")
            short_lives = 0 if loop.time() - began > _WELL_SECONDS else short_lives + 1
            pause = restart_pause(short_lives)
            _LOG.error(
                "worker %d ended with code %s; a new one starts in %.1f s", self.index, code, pause
            )
            await asyncio.sleep(pause)

    async def renew(self) -> None:
        """Put a new process in the place of the present one, which drains once the new one serves.

        Returns when that is done, or cannot be.
        """
        if self._renewal is None:
            self._renewal = asyncio.get_running_loop().create_future()
            self._wanted.set()
        await asyncio.shield(self._renewal)

    async def stop(self) -> None:
        """End what runs: it drains, and is killed where it does not end."""
        self._stopping = True
        await asyncio.gather(*(running.end(self._drain_seconds) for running in list(self._live)))

    async def _outlast(self, running: _Running) -> int:
        """Return the exit code of a process, or of the last that took its place."""
        while True:
            if not self.ready.is_set():
                await self._until(running, running.ready)
                if running.ready.is_set():
                    self.ready.set()
            await self._until(running, self._wanted)
            if running.ended.done():
                return running.ended.result()
            self._wanted.clear()
            running = await self._replace(running)
            self._renewed()

    async def _replace(self, old: _Running) -> _Running:
        new = await self._start()
        await self._until(new, new.ready)
        if new.ended.done():
            _LOG.error(
                "a new worker %d ended with code %s before it served; the old one goes on",
                self.index,
                new.ended.result(),
            )
            return old
        await old.end(self._drain_seconds)
        return new

    def _renewed(self) -> None:
        renewal, self._renewal = self._renewal, None
        self._wanted.clear()
        if renewal is not None and not renewal.done():
            renewal.set_result(None)

    async def _until(self, running: _Running, event: asyncio.Event) -> None:
        """Return when something has happened, or a process has ended."""
        happened = asyncio.create_task(event.wait())
        try:
            await asyncio.wait({running.ended, happened}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            happened.cancel()
            await asyncio.gather(happened, return_exceptions=True)

    async def _start(self) -> _Running:
        # Workers get a session of their own: Ctrl-C goes to the parent only, which tells them.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "podbay_inference_router",
            *self._arguments,
            *(["--replacement"] if self.ready.is_set() else []),
            *(["--take-over"] if self._takes_over and not self.ready.is_set() else []),
            stdout=asyncio.subprocess.PIPE,
            limit=_MAX_LINE,
            pass_fds=self._descriptors,
            start_new_session=True,
            env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
        )
        running = _Running(process, self._numbers)
        self._live.add(running)
        running.ended.add_done_callback(lambda _: self._live.discard(running))
        if self._stopping:
            await running.end(self._drain_seconds)
        return running
