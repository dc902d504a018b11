"""The nodes: what drivers tell of them, what was declared, and what people decided."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from podbay.v1 import errors_pb2
from podbay_kit.audit import shown_id
from podbay_kit.clock import Clock
from podbay_kit.errors import ServiceError, invalid
from podbay_kit.process import SettingsError
from podbay_session_manager.declared_nodes import DeclaredNode
from podbay_session_manager.driver_set import DriverSet
from podbay_session_manager.drivers.contract import (
    DriverUnreachableError,
    NodeFacts,
    ReplicaDriver,
)
from podbay_session_manager.node_rules import (
    check_address,
    check_change,
    check_withdrawal,
    mark_twins,
    node_record,
)
from podbay_session_manager.node_store import NodeStore, Origin, StoredNode
from podbay_session_manager.plan_input import NodeRecord
from podbay_session_manager.records import ReplicaRecord

__all__ = ["NodeBook"]

_LOG = logging.getLogger(__name__)
_REFRESH_SECONDS: Final = 30.0
_AGAIN_SECONDS: Final = 2.0
_FACTS_SECONDS: Final = 60.0
_PATIENCE_SECONDS: Final = 0.5


class NodeBook:
    """Knows the nodes.

    Args:
        drivers: The drivers that are on; those of declared nodes are put there.
        store: Remembers what was declared and decided.
        clock: Where the time comes from.
        most_seconds: The most seconds between two questions to a driver.
    """

    def __init__(
        self,
        drivers: DriverSet,
        store: NodeStore,
        clock: Clock,
        *,
        most_seconds: float = _REFRESH_SECONDS,
    ) -> None:
        self._pause = min(_REFRESH_SECONDS, most_seconds)
        self._drivers = drivers
        self._store = store
        self._clock = clock
        self._stored: dict[str, StoredNode] = {}
        self._facts: dict[str, tuple[NodeFacts, ...]] = {}
        self._declared: dict[str, str] = {}
        """The names of declared nodes, by their drivers'."""
        self._unreachable: dict[str, tuple[str, float]] = {}
        """Why drivers do not reach their nodes, and since when on the clock that only grows."""
        self._next_ask: dict[str, float] = {}
        self._unheard: dict[str, float] = {}
        """When drivers were first asked that have not told yet, on the clock that only grows."""
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._records: tuple[NodeRecord, ...] | None = None

    @property
    def nodes(self) -> tuple[NodeRecord, ...]:
        """A record for each node and each driver that reaches it, in the drivers' order."""
        if self._records is None:
            records = [record for driver in self._drivers.values() for record in self._of(driver)]
            engines = {name: facts[0].engine for name, facts in self._facts.items() if facts}
            self._records = tuple(mark_twins(records, engines))
        return self._records

    def as_of(self, now: float) -> tuple[NodeRecord, ...]:
        """Return the nodes with the times since which they are out of reach or silent.

        Args:
            now: The time of day, in seconds since 1970; it may have been set meanwhile.
        """
        offset = now - self._clock.monotonic()
        found: list[NodeRecord] = []
        for node in self.nodes:
            known, asked = self._unreachable.get(node.driver), self._unheard.get(node.driver)
            if known is not None:
                found.append(replace(node, unreachable_since=known[1] + offset))
            elif asked is not None:
                found.append(replace(node, silent_since=asked + offset))
            else:
                found.append(node)
        return tuple(found)

    async def load(self) -> None:
        """Read what was declared and decided, and make the drivers of the declared nodes."""
        self._stored = {node.name: node for node in await self._store.load()}
        for node in self._stored.values():
            if node.declared is not None and self._drivers.make is not None:
                self._connect(self._drivers.make(node.declared), node.name)

    async def refresh(self) -> None:
        """Ask the drivers for what their nodes have, where that was not done lately.

        Waits a little for those that never told.
        """
        now = self._clock.monotonic()
        first: list[asyncio.Task[None]] = []
        for name, driver in self._drivers.items():
            if name in self._asking or now < self._next_ask.get(name, float("-inf")):
                continue
            task = asyncio.get_running_loop().create_task(self._ask(driver), name=f"facts-{name}")
            self._asking[name] = task
            if name not in self._facts:
                self._unheard.setdefault(name, now)
                first.append(task)
        if first:
            await asyncio.wait(first, timeout=_PATIENCE_SECONDS)

    async def close(self) -> None:
        """Stop asking."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def mark_unreachable(self, driver: str, why: str) -> None:
        """Note that a driver does not reach its nodes now; an empty text that it does again."""
        known = self._unreachable.get(driver)
        if driver not in self._drivers:
            return
        if not why:
            if known is not None:
                del self._unreachable[driver]
                # What it has may not be what it had.
                self._next_ask.pop(driver, None)
                self._records = None
        elif known is None or known[0] != why:
            since = self._clock.monotonic() if known is None else known[1]
            self._unreachable[driver] = (why, since)
            self._records = None

    async def declare(
        self, declared: DeclaredNode, origin: Origin, holders: Sequence[ReplicaRecord]
    ) -> None:
        """Add a node, or change what is declared of one. To be called while `deciding`.

        Args:
            declared: What it is and has.
            origin: Where it was declared.
            holders: The replicas that have a place on a node of this name.

        Raises:
            ServiceError: INVALID_REQUEST, UNSUPPORTED_SERVICE, NODE_NOT_DECLARED or NODE_IN_USE.
        """
        if self._drivers.make is None:
            raise ServiceError(
                errors_pb2.ERROR_REASON_UNSUPPORTED_SERVICE,
                "No driver of this session manager reaches declared nodes. Start it with --drivers "
                "docker.",
            )
        known = self._stored.get(declared.name) or StoredNode(declared.name)
        local = any(n.name == declared.name and n.declared is None for n in self.nodes)
        check_change(known.declared, declared, holders, local=local)
        if origin == "api":
            # In a file a node may have got another name, and its old one goes when it is empty.
            check_address(declared, [one.declared for one in self._stored.values() if one.declared])
        if known.declared is None:
            known = replace(known, cordoned=False, draining=False, origin=origin)
        changed = replace(known, declared=declared, origin=known.origin or origin)
        if known.declared == declared:
            await self._put(changed)
            return
        try:
            driver = self._drivers.make(declared)
        except SettingsError as error:
            raise invalid("node", str(error)) from error
        await self._put(changed)
        replaced = self._connect(driver, declared.name)
        if replaced is not None:
            await _release(replaced)

    def check_withdrawal(
        self, name: str, holders: Sequence[ReplicaRecord], *, lost: bool = False
    ) -> None:
        """Let a node pass that can be withdrawn.

        Args:
            name: Its name.
            holders: The replicas that have a place on it.
            lost: Whether it is known that they are gone with the machine.

        Raises:
            ServiceError: NODE_NOT_FOUND, NODE_NOT_DECLARED or NODE_IN_USE.
        """
        node = self._stored.get(name)
        declared = node is not None and node.declared is not None
        if not declared:
            self.check(name)
        check_withdrawal(name, declared, holders, lost=lost)

    async def withdraw(self, name: str) -> None:
        """Remove a declared node on which nothing has a place. To be called while `deciding`."""
        await self._store.remove(name)
        self._stored.pop(name, None)
        for driver, of in list(self._declared.items()):
            if of == name:
                await self._disconnect(driver)

    async def sync_file(
        self, nodes: Sequence[DeclaredNode], holders: Mapping[str, Sequence[ReplicaRecord]]
    ) -> None:
        """Make the nodes of the file what the file says.

        A node that left the file is withdrawn; where replicas are on it, it is emptied first.

        Args:
            nodes: The nodes of the file.
            holders: The replicas that have a place, by node.

        Raises:
            ServiceError: As `declare`.
        """
        for node in nodes:
            await self.declare(node, "file", holders.get(node.name, ()))
            now = self._stored[node.name]
            # One that is back is not emptied any more because it had left.
            draining = now.draining and now.origin != "left-file"
            await self._put(replace(now, draining=draining, origin="file"))
        names = {node.name for node in nodes}
        for stored in list(self._stored.values()):
            if stored.origin not in {"file", "left-file"} or stored.name in names:
                continue
            if holders.get(stored.name):
                _LOG.warning(
                    "node %s left the file of nodes and is emptied; it goes at a later start",
                    stored.name,
                )
                # Whom people empty themselves they go on to empty.
                origin: Origin = "file" if stored.draining else "left-file"
                await self._put(replace(stored, draining=True, origin=origin))
            else:
                await self.withdraw(stored.name)

    async def set_cordoned(self, name: str, cordoned: bool) -> None:
        """Stop or allow new replicas on a node.

        Raises:
            ServiceError: NODE_NOT_FOUND.
        """
        self.check(name)
        await self._put(replace(self._stored.get(name, StoredNode(name)), cordoned=cordoned))

    async def set_draining(self, name: str, draining: bool) -> None:
        """Begin or end to empty a node.

        Raises:
            ServiceError: NODE_NOT_FOUND.
        """
        self.check(name)
        await self._put(replace(self._stored.get(name, StoredNode(name)), draining=draining))

    def check(self, name: str) -> None:
        """Let the name of a node pass.

        Raises:
            ServiceError: NODE_NOT_FOUND.
        """
        if not any(node.name == name for node in self.nodes):
            raise ServiceError(
                errors_pb2.ERROR_REASON_NODE_NOT_FOUND,
                f"There is no node {shown_id(name)[:64]!r}. List them: podbay node list.",
            )

    async def _put(self, node: StoredNode) -> None:
        if self._stored.get(node.name) == node:
            return
        await self._store.put(node)
        self._stored[node.name] = node
        self._records = None

    def _connect(self, driver: ReplicaDriver, node: str) -> ReplicaDriver | None:
        """Put the driver of a declared node on, and return the one that it replaces."""
        self._declared[driver.name] = node
        for table in (self._facts, self._next_ask, self._unheard):
            table.pop(driver.name, None)
        self._records = None
        return self._drivers.put(driver)

    async def _disconnect(self, name: str) -> None:
        for table in (
            self._declared,
            self._facts,
            self._unreachable,
            self._next_ask,
            self._unheard,
        ):
            table.pop(name, None)
        self._records = None
        driver = self._drivers.take(name)
        if driver is not None:
            await _release(driver)

    async def _ask(self, driver: ReplicaDriver) -> None:
        pause = _AGAIN_SECONDS
        try:
            async with asyncio.timeout(_FACTS_SECONDS):
                facts = tuple(await driver.nodes())
            if self._drivers.holds(driver):
                self._facts[driver.name] = facts
                self._unheard.pop(driver.name, None)
                self._records = None
            pause = self._pause
        except (DriverUnreachableError, TimeoutError) as error:
            _LOG.debug("what the nodes of %s have is not known now: %s", driver.name, error)
        except Exception:  # noqa: BLE001 # logged; asked again
            _LOG.exception("the driver %s failed to tell of its nodes", driver.name)
        finally:
            self._next_ask[driver.name] = self._clock.monotonic() + pause
            self._asking.pop(driver.name, None)

    def _of(self, driver: ReplicaDriver) -> list[NodeRecord]:
        why, _ = self._unreachable.get(driver.name, ("", None))
        facts = self._facts.get(driver.name)
        declared = self._stored.get(self._declared.get(driver.name, ""))
        if declared is not None and declared.declared is not None:
            own = facts[0] if facts else None
            record = node_record(driver, declared, own)
            if own is None and not why:
                why = "what it has is not known yet"
            return [replace(record, unreachable=why)]
        return [
            replace(
                node_record(driver, self._stored.get(fact.name) or StoredNode(fact.name), fact),
                unreachable=why,
            )
            for fact in facts or ()
        ]


async def _release(driver: ReplicaDriver) -> None:
    await driver.close()
    # Who waits for its hints sees that it is off.
    driver.changed.set()
