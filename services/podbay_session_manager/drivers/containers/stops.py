"""Ends containers: asks them, and forces them when their grace is over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from podbay_kit.tasks import TaskSet
from podbay_session_manager.drivers.containers.calls import EngineCalls
from podbay_session_manager.drivers.containers.engine import (
    EngineClient,
    EngineConflictError,
    EngineError,
    EngineNotFoundError,
)
from podbay_session_manager.drivers.contract import DriverUnreachableError

__all__ = ["Stops"]

_LOG = logging.getLogger(__name__)
_AGAIN_SECONDS: Final = 1.0


class _Stop:
    """A stop that is under way."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.sooner = asyncio.Event()


class Stops:
    """The stops of one engine's containers.

    Args:
        calls: The engine.
        tasks: Where what waits runs.
    """

    def __init__(self, calls: EngineCalls, tasks: TaskSet) -> None:
        self._calls = calls
        self._tasks = tasks
        self._running: dict[str, _Stop] = {}

    async def stop(self, container: str, grace: float, signal: str) -> None:
        """Send the signal, and SIGKILL after the grace; a further call can shorten it.

        Raises:
            DriverUnreachableError: The engine cannot be reached; nothing was begun.
        """
        deadline = asyncio.get_running_loop().time() + max(0.0, grace)
        stop = self._running.get(container)
        if stop is not None:
            if deadline < stop.deadline:
                stop.deadline = deadline
                stop.sooner.set()
            return
        if grace > 0 and not await self._tell(
            container, signal, lambda engine: engine.kill(container, signal)
        ):
            return
        if container not in self._running:
            stop = self._running[container] = _Stop(deadline)
            self._tasks.spawn(f"stop-{container}", self._force(container, stop))

    def under_way(self, container: str) -> bool:
        """Return whether a container is being stopped."""
        return container in self._running

    def forget(self, container: str) -> None:
        """Note that a container has ended."""
        stop = self._running.pop(container, None)
        if stop is not None:
            stop.sooner.set()

    async def _force(self, container: str, stop: _Stop) -> None:
        loop = asyncio.get_running_loop()
        while self._running.get(container) is stop:
            left = stop.deadline - loop.time()
            if left > 0:
                stop.sooner.clear()
                try:
                    async with asyncio.timeout(left):
                        await stop.sooner.wait()
                except TimeoutError:
                    pass
                continue
            try:
                if not await self._tell(
                    container, "SIGKILL", lambda engine: _kill(engine, container)
                ):
                    break
            except DriverUnreachableError as error:
                _LOG.debug("%s is not killed yet: %s", container, error)
            # What hangs in the kernel does not end at once; it is told until it has.
            stop.deadline = loop.time() + _AGAIN_SECONDS
        if self._running.get(container) is stop:
            del self._running[container]

    async def _tell(self, container: str, what: str, work: Callable[[EngineClient], None]) -> bool:
        """Send a signal; return whether there was something to send it to."""
        try:
            await self._calls.tell(work)
        except (EngineNotFoundError, EngineConflictError):
            return False
        except EngineError as error:
            _LOG.warning("%s to %s: %s", what, container, error)
        return True


def _kill(engine: EngineClient, container: str) -> None:
    """Kill a container: its first process, and the others with that.

    A process needs some CPU time to end. Where a hundred others of its container want the share of
    a core that they have together, as those of a fork bomb do, it gets that after minutes only. So
    the limit is lifted before.
    """
    try:
        engine.lift_cpu_limit(container)
    except EngineNotFoundError:
        raise
    except EngineError as error:
        _LOG.debug("the CPU limit of %s is not lifted: %s", container, error)
    engine.kill(container, "SIGKILL")
