"""Removes what no container of the installation uses any more: networks, volumes, helpers.

A step that was cut off in the middle leaves them; the containers tell what is still needed.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Final

from podbay_kit.tasks import TaskSet
from podbay_session_manager.drivers.containers.calls import EngineCalls
from podbay_session_manager.drivers.containers.engine import EngineClient, EngineError
from podbay_session_manager.drivers.containers.labels import HELPER, REPLICA, SESSION, Ownership
from podbay_session_manager.drivers.containers.networks import SessionNetworks
from podbay_session_manager.drivers.containers.volumes import Volumes
from podbay_session_manager.drivers.contract import DriverUnreachableError

__all__ = ["Sweeper"]

_LOG = logging.getLogger(__name__)
_PAUSE_SECONDS: Final = 2.0


class Sweeper:
    """Sweeps one engine.

    Args:
        calls: The engine.
        owner: Whose things to look at.
        networks: The networks of sessions.
        volumes: The volumes of replicas.
        tasks: Where it runs.
        helpers: The names of helper containers that are in use now.
    """

    def __init__(
        self,
        calls: EngineCalls,
        owner: Ownership,
        networks: SessionNetworks,
        volumes: Volumes,
        tasks: TaskSet,
        helpers: set[str],
    ) -> None:
        self._calls = calls
        self._owner = owner
        self._networks = networks
        self._volumes = volumes
        self._tasks = tasks
        self._helpers = helpers
        # An earlier session manager may have left something.
        self._due = True
        self._task: asyncio.Task[None] | None = None
        self._swept_at = float("-inf")

    def due(self) -> None:
        """Note that something may be left."""
        self._due = True

    async def clean(self, session_id: str, replica_id: str) -> None:
        """Remove what only this replica used; where that fails, a sweep will."""
        try:
            await self._volumes.remove_scratch(replica_id)
            if session_id:
                await self._networks.remove_unused([session_id])
        except (DriverUnreachableError, EngineError) as error:
            _LOG.info("what replica %s used is removed later: %s", replica_id, error)
            self._due = True

    def sweep_soon(self, starting: frozenset[str]) -> None:
        """Begin to sweep where it is due.

        Args:
            starting: The replicas that are being started.
        """
        now = asyncio.get_running_loop().time()
        idle = self._task is None or self._task.done()
        if self._due and idle and now - self._swept_at >= _PAUSE_SECONDS:
            self._due = False
            self._swept_at = now
            self._task = self._tasks.spawn("sweep", self._sweep(starting))

    async def _sweep(self, starting: frozenset[str]) -> None:
        try:
            containers = await self._calls.ask(lambda engine: engine.containers(self._owner.mine))
            labels = [container["Labels"] for container in containers]
            for container in containers:
                name = str(container["Names"][0]).lstrip("/")
                if HELPER in container["Labels"] and name not in self._helpers:
                    await self._calls.tell(partial(EngineClient.remove, container=name, force=True))
            replicas = {label[REPLICA] for label in labels if REPLICA in label}
            for replica_id in await self._volumes.scratch_owners() - replicas - starting:
                await self._volumes.remove_scratch(replica_id)
            sessions = {label[SESSION] for label in labels if SESSION in label}
            unused = await self._networks.sessions() - sessions - self._networks.in_use()
            await self._networks.remove_unused(unused)
        except (DriverUnreachableError, EngineError) as error:
            _LOG.info("the sweep goes on later: %s", error)
            self._due = True
