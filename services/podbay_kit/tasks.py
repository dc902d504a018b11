"""Named, guarded tasks: none is forgotten, and none dies in silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from podbay_kit.clock import Clock, SystemClock

__all__ = ["TaskSet", "ended"]

_LOG = logging.getLogger(__name__)


async def ended(task: asyncio.Future[Any]) -> BaseException | None:
    """End a task that nobody waits for any more, unless it has ended; return how it failed.

    One that fails in the very moment in which those who wait for it are cancelled would otherwise
    be asked by nobody, and asyncio would log an exception that was never retrieved.

    Returns:
        What it raised; None where it returned, or was cancelled.
    """
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    return None if task.cancelled() else task.exception()


class TaskSet:
    """The background tasks of one owner, which closes them all."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, name: str, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as a task; a crash is logged under its name.

        Raises:
            RuntimeError: The set is closed.
        """
        if self._closed:
            coroutine.close()
            raise RuntimeError(f"task {name!r} was spawned after its owner was closed")
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def spawn_forever(
        self,
        name: str,
        factory: Callable[[], Awaitable[None]],
        *,
        first_backoff: float = 0.1,
        last_backoff: float = 5.0,
    ) -> asyncio.Task[Any]:
        """Run what `factory` makes again and again; after a crash with growing pauses.

        Args:
            name: The task's name, for the log.
            factory: Makes the coroutine of one run. A run that returns is started again at once.
            first_backoff: Seconds of pause after the first crash in a row.
            last_backoff: The longest pause in seconds.
        """
        return self.spawn(name, self._forever(name, factory, first_backoff, last_backoff))

    async def close(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        self._closed = True
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _forever(
        self,
        name: str,
        factory: Callable[[], Awaitable[None]],
        first_backoff: float,
        last_backoff: float,
    ) -> None:
        pause = first_backoff
        while True:
            started = self._clock.monotonic()
            try:
                await factory()
                pause = first_backoff
                await asyncio.sleep(0)
            except Exception:  # noqa: BLE001 # logged, and tried again
                # A loop must outlive what one run of it meets; the log says what that was.
                if self._clock.monotonic() - started > 10 * last_backoff:
                    pause = first_backoff
                _LOG.exception("task %s failed; it starts again in %.1f s", name, pause)
                await self._clock.sleep(pause)
                pause = min(2 * pause, last_backoff)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            _LOG.error("task %s failed", task.get_name(), exc_info=error)
