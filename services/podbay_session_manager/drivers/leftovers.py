"""Makes sure that nothing of an ended replica runs on."""

from __future__ import annotations

import asyncio
import logging

from podbay_kit.tasks import TaskSet
from podbay_session_manager.drivers.process_tree import find_marked, kill_all

__all__ = ["LeftoverReaper"]

_LOG = logging.getLogger(__name__)
_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 1.0


class LeftoverReaper:
    """Kills what is left of replicas, wherever it went, until nothing is.

    One look over all processes serves every replica that waits: a hundred that end together cost
    hardly more than one.
    """

    def __init__(self, tasks: TaskSet) -> None:
        self._tasks = tasks
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._running = False

    async def reap(self, replica_id: str) -> None:
        """Return once no process of the replica is left."""
        future = self._waiting.get(replica_id)
        if future is None:
            future = self._waiting[replica_id] = asyncio.get_running_loop().create_future()
        if not self._running:
            self._running = True
            self._tasks.spawn("reap-leftovers", self._run())
        await asyncio.shield(future)

    async def _run(self) -> None:
        pause = _PAUSE_SECONDS
        try:
            while self._waiting:
                batch = dict(self._waiting)
                left = await asyncio.to_thread(_look_and_kill, frozenset(batch))
                for replica_id, future in batch.items():
                    if replica_id not in left:
                        self._waiting.pop(replica_id, None)
                        if not future.done():
                            future.set_result(None)
                if left:
                    if pause >= _LONGEST_PAUSE_SECONDS:
                        _LOG.warning("processes of replicas do not end: %s", left)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                else:
                    pause = _PAUSE_SECONDS
        finally:
            self._running = False


def _look_and_kill(replica_ids: frozenset[str]) -> dict[str, list[int]]:
    left = find_marked(replica_ids)
    for pids in left.values():
        kill_all(pids)
    return left
