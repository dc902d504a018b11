"""The nodes: what drivers tell of them, and what people decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from podbay.v1 import errors_pb2
from podbay_kit.clock import Clock
from podbay_kit.errors import ServiceError
from podbay_session_manager.drivers.contract import DriverUnreachableError, ReplicaDriver
from podbay_session_manager.plan_input import NodeRecord
from podbay_session_manager.store import SessionStore

__all__ = ["NodeBook"]

_REFRESH_SECONDS = 30.0


class NodeBook:
    """Knows the nodes.

    Args:
        drivers: The drivers that are on, by name.
        store: Remembers which nodes are cordoned.
        clock: Where the time comes from.
    """

    def __init__(
        self, drivers: Mapping[str, ReplicaDriver], store: SessionStore, clock: Clock
    ) -> None:
        self._drivers = drivers
        self._store = store
        self._clock = clock
        self._nodes: dict[str, tuple[NodeRecord, ...]] = {}
        self._asked_at: dict[str, float] = {}
        self._cordoned: frozenset[str] = frozenset()

    @property
    def nodes(self) -> tuple[NodeRecord, ...]:
        """A record for each node and each driver that reaches it, in the drivers' order."""
        return tuple(
            replace(node, cordoned=node.name in self._cordoned)
            for name in self._drivers
            for node in self._nodes.get(name, ())
        )

    async def load(self) -> None:
        """Read what people decided."""
        self._cordoned = await self._store.cordoned()

    async def refresh(self) -> None:
        """Ask the drivers for their nodes, where that was not done lately."""
        for name, driver in self._drivers.items():
            now = self._clock.monotonic()
            if now - self._asked_at.get(name, float("-inf")) < _REFRESH_SECONDS:
                continue
            self._asked_at[name] = now
            try:
                facts = await driver.nodes()
            except DriverUnreachableError as error:
                self.mark_unreachable(name, str(error))
                continue
            self._nodes[name] = tuple(
                NodeRecord(
                    name=fact.name,
                    driver=name,
                    address=fact.address,
                    cpus=fact.cpus,
                    memory_bytes=fact.memory_bytes,
                )
                for fact in facts
            )

    def mark_unreachable(self, driver: str, why: str) -> None:
        """Note that a driver does not reach its nodes now; an empty text that it does again."""
        self._nodes[driver] = tuple(
            replace(node, unreachable=why) for node in self._nodes.get(driver, ())
        )

    async def set_cordoned(self, name: str, cordoned: bool) -> None:
        """Stop or allow new replicas on a node.

        Raises:
            ServiceError: NODE_NOT_FOUND.
        """
        self.check(name)
        await self._store.set_cordoned(name, cordoned)
        self._cordoned = self._cordoned | {name} if cordoned else self._cordoned - {name}

    def check(self, name: str) -> None:
        """Let the name of a node pass.

        Raises:
            ServiceError: NODE_NOT_FOUND.
        """
        if not any(node.name == name for node in self.nodes):
            raise ServiceError(
                errors_pb2.ERROR_REASON_NODE_NOT_FOUND,
                f"There is no node {name[:64]!r}. List them: podbay node list.",
            )
