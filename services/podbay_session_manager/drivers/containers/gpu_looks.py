"""Looks at the GPUs inside the containers that have some: they can vanish there alone.

After its engine's daemon was reloaded a container can lose its GPUs while they are well: then
nvidia-smi says inside "Failed to initialize NVML", and only another container helps. A container is
compared with itself: one in which nvidia-smi never worked tells nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from podbay_kit.tasks import TaskSet
from podbay_session_manager.drivers.containers.calls import EngineCalls
from podbay_session_manager.drivers.containers.engine import EngineClient, EngineError
from podbay_session_manager.drivers.containers.labels import GENERATION
from podbay_session_manager.drivers.contract import DriverUnreachableError

__all__ = ["GpuLooks"]

_LOG = logging.getLogger(__name__)
_COMMAND: Final = ("nvidia-smi", "-L")
_SILENT_SECONDS: Final = 20.0
_VANISHED: Final = "nvml"
_SHOWN: Final = 200


class GpuLooks:
    """Looks into the containers of one engine.

    Args:
        calls: The engine.
        generation: Which start of the session manager this is.
        seconds: The pause between two looks.
        tasks: Where looks run.
        on_news: Called when a container has lost its GPUs.
    """

    def __init__(
        self,
        calls: EngineCalls,
        generation: str,
        seconds: float,
        tasks: TaskSet,
        on_news: Callable[[], None],
    ) -> None:
        self._calls = calls
        self._generation = generation
        self._seconds = seconds
        self._tasks = tasks
        self._on_news = on_news
        self._worked: set[str] = set()
        self._trouble: dict[str, str] = {}
        self._looked_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def trouble(self, container: str) -> str:
        """Return what the last look into a container found wrong; empty for nothing."""
        return self._trouble.get(container, "")

    def look_soon(self, running: Sequence[Mapping[str, Any]]) -> None:
        """Begin to look where the last look was long ago.

        Args:
            running: The containers that run, as the engine tells when they are inspected.
        """
        having = {str(one["Id"]): one for one in running if _has_gpus(one)}
        self._worked &= having.keys()
        self._trouble = {k: v for k, v in self._trouble.items() if k in having}
        now = asyncio.get_running_loop().time()
        idle = self._task is None or self._task.done()
        if having and idle and now - self._looked_at >= self._seconds:
            self._looked_at = now
            self._task = self._tasks.spawn("look-into-containers", self._look(having))

    async def _look(self, containers: Mapping[str, Mapping[str, Any]]) -> None:
        for identity, details in containers.items():
            if identity in self._trouble:
                continue
            try:
                found = await self._calls.stream(
                    partial(_ask, container=identity), silence=_SILENT_SECONDS
                )
            except DriverUnreachableError:
                # That says nothing of the GPUs.
                return
            except EngineError as error:
                # It has ended meanwhile, or has no such program.
                _LOG.debug("no look into %s: %s", identity, error)
                continue
            if found is None:
                continue
            code, output = found
            if code == 0:
                self._worked.add(identity)
            elif self._is_loss(identity, details, output):
                last = output.strip().splitlines()[-1:] or ["it wrote nothing"]
                self._trouble[identity] = (
                    f"nvidia-smi in it ended with exit code {code}: {last[0][:_SHOWN]}"
                )
                self._on_news()

    def _is_loss(self, identity: str, details: Mapping[str, Any], output: str) -> bool:
        """Say whether a failed look means that GPUs were there before."""
        adopted = details["Config"]["Labels"].get(GENERATION) != self._generation
        return identity in self._worked or (adopted and _VANISHED in output.lower())


def _has_gpus(details: Mapping[str, Any]) -> bool:
    return bool((details.get("HostConfig") or {}).get("DeviceRequests"))


def _ask(engine: EngineClient, container: str) -> tuple[int, str] | None:
    """Return how nvidia-smi ends in a container, and what it writes; None where it hangs."""
    try:
        return engine.execute(container, _COMMAND)
    except DriverUnreachableError as error:
        # Silence of a program is not silence of the engine: others find out about that one.
        _LOG.info("the look into %s has no end: %s", container, error)
        return None
