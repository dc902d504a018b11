"""Images on a node: pulled once, whoever waits for them, and with progress."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from podbay_kit.tasks import TaskSet
from podbay_session_manager.drivers.containers.calls import EngineCalls
from podbay_session_manager.drivers.containers.engine import (
    EngineClient,
    EngineError,
    EngineNotFoundError,
)
from podbay_session_manager.drivers.containers.failures import pull_failure
from podbay_session_manager.drivers.contract import (
    DriverUnreachableError,
    StartFailedError,
    StartProgress,
)

__all__ = ["Images"]

Json = Mapping[str, Any]
_Failure = StartFailedError | DriverUnreachableError
KnowsName = Callable[[str], Awaitable[bool | None]]


class _Pull:
    """A pull that is under way; its layers' progress is told by another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.task: asyncio.Task[_Failure | None] | None = None
        self._loop = loop
        self._layers: dict[str, tuple[int, int]] = {}
        self._moved_at = loop.time()

    def told(self, line: Json) -> None:
        """Take a message of the engine."""
        self._moved_at = self._loop.time()
        detail = line.get("progressDetail") or {}
        layer = str(line.get("id") or "")
        if line.get("status") == "Downloading" and detail.get("total"):
            self._layers[layer] = (int(detail.get("current") or 0), int(detail["total"]))
        elif line.get("status") in {"Download complete", "Pull complete"}:
            total = self._layers.get(layer, (0, 0))[1]
            self._layers[layer] = (total, total)

    def progress(self, image: str) -> StartProgress:
        """Return how far it has come."""
        layers = list(self._layers.values())
        return StartProgress(
            f"pulling the image {image}",
            sum(done for done, _ in layers),
            sum(total for _, total in layers),
            self._moved_at,
        )


class Images:
    """The images of one engine.

    Args:
        calls: The engine.
        tasks: Where pulls run: they go on where whoever waits goes away.
        knows_name: Asks a registry whether it has any image of a name.
    """

    def __init__(self, calls: EngineCalls, tasks: TaskSet, knows_name: KnowsName) -> None:
        self._calls = calls
        self._tasks = tasks
        self._knows_name = knows_name
        self._pulls: dict[str, _Pull] = {}

    async def ensure(self, image: str) -> Json:
        """Return what the engine knows of an image, which is pulled where it is not there.

        Raises:
            StartFailedError: It cannot be had.
            DriverUnreachableError: The engine cannot be reached.
        """
        found = await self._find(image)
        if found is not None:
            return found
        pull = self._pulls.get(image)
        if pull is None:
            pull = self._pulls[image] = _Pull(asyncio.get_running_loop())
            pull.task = self._tasks.spawn(f"pull-{image}", self._pull(image, pull))
        failure = await asyncio.shield(pull.task) if pull.task is not None else None
        if failure is not None:
            raise failure
        found = await self._find(image)
        if found is None:
            raise pull_failure(image, EngineError(0, "it was removed meanwhile"), name_known=None)
        return found

    def progress(self, image: str) -> StartProgress | None:
        """Return how far the pull of an image has come; None where none is under way."""
        pull = self._pulls.get(image)
        return None if pull is None else pull.progress(image)

    async def _find(self, image: str) -> Json | None:
        try:
            return await self._calls.ask(lambda engine: engine.image(image))
        except EngineNotFoundError:
            return None

    async def _pull(self, image: str, pull: _Pull) -> _Failure | None:
        def work(engine: EngineClient) -> None:
            engine.pull(image, pull.told)

        try:
            await self._calls.stream(work, bulk=True)
        except EngineError as error:
            known = await self._knows_name(image) if "unknown" in error.text.lower() else None
            return pull_failure(image, error, name_known=known)
        except DriverUnreachableError as error:
            return error
        finally:
            self._pulls.pop(image, None)
        return None
