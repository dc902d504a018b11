"""A network for each session on a node: its replicas are reached there, and reach nothing."""

from __future__ import annotations

import ipaddress
import secrets
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from podbay_session_manager.drivers.containers.calls import EngineCalls
from podbay_session_manager.drivers.containers.engine import (
    EngineError,
    EngineNotFoundError,
)
from podbay_session_manager.drivers.containers.labels import SESSION, Ownership
from podbay_session_manager.drivers.containers.locks import KeyedLocks

__all__ = ["SessionNetworks"]

_BRIDGE: Final = "com.docker.network.bridge"
_PREFIX_LENGTH: Final = 26
_TRIES: Final = 8

# What engines say of addresses that they have chosen or been given: there are none left, others
# have them, or an engine that was killed in the middle of this believes so.
_TAKEN: Final = ("non-overlapping", "address pool", "overlap", "failed to allocate gateway")


class SessionNetworks:
    """The networks of sessions on one engine.

    A network without a way out is internal: it has no route to anywhere, and only the node itself
    reaches what is in it. Where the node's replicas are reached at an address of the node
    (`published`), an internal network does not do, because the engine publishes no ports of it:
    it is then one whose packets are not masqueraded, so that no answer comes back from outside.

    Args:
        calls: The engine.
        owner: Whose they are.
        published: Whether replicas are reached at published ports.
        subnets: Addresses for networks where the engine has none left.
    """

    def __init__(
        self, calls: EngineCalls, owner: Ownership, *, published: bool, subnets: str
    ) -> None:
        self._calls = calls
        self._owner = owner
        self._published = published
        self._subnets = ipaddress.ip_network(subnets)
        self._locks = KeyedLocks()
        self._users: defaultdict[str, set[str]] = defaultdict(set)

    def in_use(self) -> frozenset[str]:
        """Return the sessions whose networks replicas of this driver are about to use."""
        return frozenset(session for session, users in self._users.items() if users)

    async def take(self, session_id: str, replica_id: str, *, egress: bool) -> str:
        """Return the id of a session's network, which is made where it is not there.

        It is kept until `give_back`.

        Raises:
            EngineError: It cannot be made.
            DriverUnreachableError: The engine cannot be reached.
        """
        self._users[session_id].add(replica_id)
        async with self._locks.of(session_id):
            found = await self._find(session_id)
            if found:
                return found[0]
            try:
                return await self._create(session_id, egress=egress)
            except EngineError as error:
                if not _of_addresses(error):
                    raise
                return await self._create_in_own_subnet(session_id, egress=egress)

    def give_back(self, session_id: str, replica_id: str) -> None:
        """Note that a replica uses the network, or never will: from now on its container tells."""
        self._users[session_id].discard(replica_id)
        if not self._users[session_id]:
            del self._users[session_id]

    async def remove_unused(self, sessions: Iterable[str]) -> None:
        """Remove the networks of sessions that nothing uses any more. Idempotent.

        Raises:
            DriverUnreachableError: The engine cannot be reached.
        """
        for session_id in sessions:
            async with self._locks.of(session_id):
                if self._users.get(session_id):
                    continue
                for network in await self._find(session_id):
                    await self._remove(network)

    async def sessions(self) -> frozenset[str]:
        """Return the sessions that have a network on the engine."""
        found = await self._calls.ask(lambda engine: engine.networks(self._owner.mine))
        return frozenset(
            session for net in found if (session := (net.get("Labels") or {}).get(SESSION))
        )

    async def _find(self, session_id: str) -> list[str]:
        """Return the ids of a session's networks, always in the same order.

        There can be several: an engine that was frozen does late what it was asked before.
        """
        labels = {**self._owner.mine, SESSION: session_id}
        found = await self._calls.ask(lambda engine: engine.networks(labels))
        return [
            str(net["Id"]) for net in sorted(found, key=lambda net: (net["Created"], net["Id"]))
        ]

    async def _remove(self, network: str) -> None:
        try:
            await self._calls.tell(lambda engine: engine.remove_network(network))
        except EngineNotFoundError:
            pass
        except EngineError as error:
            # Containers are in it; whoever removes the last of them comes here again.
            if "active endpoints" not in error.text:
                raise

    async def _create(self, session_id: str, *, egress: bool, subnet: str = "") -> str:
        options = {f"{_BRIDGE}.enable_icc": "false"}
        if self._published and not egress:
            options[f"{_BRIDGE}.enable_ip_masquerade"] = "false"
        return await self._calls.tell(
            lambda engine: engine.create_network(
                # Engines do not keep names apart, and take a network by its name in the end.
                self._owner.name(session_id, secrets.token_hex(4)),
                internal=not egress and not self._published,
                options=options,
                labels=self._owner.labels(session=session_id),
                subnet=subnet,
            )
        )

    async def _create_in_own_subnet(self, session_id: str, *, egress: bool) -> str:
        """Choose the addresses: an engine as it comes has some 30 networks' worth."""
        taken = await self._calls.ask(lambda engine: engine.networks({}))
        used = [
            ipaddress.ip_network(config["Subnet"])
            for net in taken
            for config in (net.get("IPAM") or {}).get("Config") or ()
            if config.get("Subnet")
        ]
        free = (
            subnet
            for subnet in self._subnets.subnets(new_prefix=_PREFIX_LENGTH)
            if not any(subnet.version == u.version and subnet.overlaps(u) for u in used)
        )
        for tried, subnet in enumerate(free, 1):
            try:
                return await self._create(session_id, egress=egress, subnet=str(subnet))
            except EngineError as error:
                # Another session took it at the same time.
                if not _of_addresses(error) or tried == _TRIES:
                    raise
        raise EngineError(
            0, f"there is no subnet left for the session's network in {self._subnets}"
        )


def _of_addresses(error: EngineError) -> bool:
    text = error.text.lower()
    return any(part in text for part in _TAKEN)
