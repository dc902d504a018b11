"""What breaks parts of a platform at random, by a seed, and waits until they are whole again."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import psutil

from podbay import AsyncClient
from tests.support.eventually import eventually
from tests.support.platform import Platform
from tests.support.postgresql import PostgreSQL

__all__ = ["LOSSES", "PAIRS", "Blow", "Breaker", "Fault"]

_RECOVERS_SECONDS = 120.0
_PAUSE_SECONDS = 1.0
# Between a recovery and the next fault, at least.
_CALM_SECONDS = 0.5
# How long it may take until the other end of a connection notices that it is broken: what is sent
# before was in flight.
_NOTICED_SECONDS = 0.05

Blow = tuple[str, str]
"""A part, as "replica", and what is done to it: "kill", "crash", "pause" or "restart"."""

PAIRS: tuple[tuple[Blow, Blow], ...] = (
    # The session manager goes before the new router has its table.
    (("inference-router", "kill"), ("session-manager", "kill")),
    (("inference-router", "crash"), ("session-manager", "kill")),
    # It goes before it has replaced what is lost.
    (("replica", "kill"), ("session-manager", "kill")),
    (("worker", "kill"), ("inference-router", "kill")),
)
"""What is done at once: the second hits before the first has healed."""

# What gRPC itself says, without a reason of the catalogue, to a call that arrives in the moment in
# which a server ends: no server can help it. Programs that use the client never see it.
_ARRIVED_LATE = frozenset({"CANCELLED"})

LOSSES: dict[Blow, frozenset[str]] = {
    ("replica", "kill"): frozenset({"REPLICA_CONNECTION_LOST"}),
    ("replica", "restart"): frozenset({"REPLICA_CONNECTION_LOST"}),
    ("worker", "kill"): frozenset({"CONNECTION_LOST"}),
    ("inference-router", "crash"): frozenset({"CONNECTION_LOST"}),
    ("worker", "restart"): _ARRIVED_LATE,
    ("inference-router", "restart"): _ARRIVED_LATE,
    ("inference-router", "kill"): _ARRIVED_LATE,
}
"""How calls may fail that were in flight in a part when it was lost.

The other parts carry no calls; a worker that is asked to end finishes its own; and the workers of a
router whose first process alone is killed serve on, and end then.
"""


@dataclass(frozen=True)
class Fault:
    """What was done to parts.

    Attributes:
        blows: What was done, in this order.
        began: When, by the monotonic clock, in seconds.
        losts: For each of them, when what was hit was gone: whatever is begun later is not in
            flight in it.
        up: When there were processes in the places of all again.
        recovered: When all was whole again, and a call that was begun later than that answered.
    """

    blows: tuple[Blow, ...]
    began: float
    losts: tuple[float, ...]
    up: float
    recovered: float

    @property
    def lost(self) -> float:
        """When all that was hit was gone."""
        return max(self.losts)

    @property
    def name(self) -> str:
        """What was done, in words."""
        return ", then ".join(f"{way} {part}" for part, way in self.blows)

    def explains(self, reason: str, began: float, ended: float) -> bool:
        """Whether a call of this time may have failed for a reason by this."""
        return any(
            reason in LOSSES.get(blow, frozenset())
            and began <= lost + _NOTICED_SECONDS
            and ended >= self.began
            for blow, lost in zip(self.blows, self.losts, strict=True)
        )


@dataclass(frozen=True)
class _Struck:
    """A part that was hit.

    Attributes:
        lost: When what was hit was gone.
        up: Whether a process is in its place again.
        whole: Whether it works again.
        leaves: The processes that go on until then, and end.
    """

    lost: float
    up: Callable[[], bool | Awaitable[bool]]
    whole: Callable[[], bool | Awaitable[bool]]
    leaves: tuple[psutil.Process, ...] = ()


class Breaker:
    """Breaks one part after the other, or two at once.

    Args:
        platform: The platform.
        client: An administrator's client.
        sessions: The sessions whose replicas may be broken.
        postgresql: The database, if there is one.
        seed: Of what is broken when.
        answered: Whether a call that was begun after a time of the monotonic clock was answered.
    """

    def __init__(
        self,
        platform: Platform,
        client: AsyncClient,
        sessions: list[str],
        postgresql: PostgreSQL | None,
        seed: int,
        answered: Callable[[float], bool],
    ) -> None:
        self._answered = answered
        self.faults: list[Fault] = []
        self._platform = platform
        self._client = client
        self._sessions = sessions
        self._postgresql = postgresql
        self._random = random.Random(seed)

    def ways(self) -> list[tuple[Blow, ...]]:
        """Return all that can be done."""
        parts = ["registry", "session-manager", "inference-router", "worker", "replica"]
        if self._postgresql is not None:
            parts.append("postgresql")
        found = [(part, way) for part in parts for way in ("kill", "pause", "restart")]
        # A session manager of `podbay up` that is asked to end takes its replicas with it: that is
        # how the platform ends, not something that calls could live through.
        found.remove(("session-manager", "restart"))
        # The router with its workers, as where its machine or its container is lost.
        found.append(("inference-router", "crash"))
        return [*((one,) for one in found), *PAIRS]

    async def run(self, until: float, every: float) -> None:
        """Break parts until a time of the monotonic clock: all ways in turn, shuffled anew.

        Args:
            until: The time.
            every: Seconds from a fault to the next one, which never comes before the recovery.
        """
        left: list[tuple[Blow, ...]] = []
        await asyncio.sleep(_CALM_SECONDS)
        while time.monotonic() < until:
            if not left:
                left = self.ways()
                self._random.shuffle(left)
            fault = await self._break(left.pop())
            self.faults.append(fault)
            # By the clock: a platform that recovers sooner is not broken more often for that.
            await asyncio.sleep(max(_CALM_SECONDS, fault.began + every - time.monotonic()))

    async def _break(self, blows: tuple[Blow, ...]) -> Fault:
        began = time.monotonic()
        struck: list[_Struck] = []
        for part, way in blows:
            for before in struck:
                # The second hits what comes into the place of the first.
                await self._whole(before.up, "another process")
            struck.append(await self._strike(part, way))
        what = ", then ".join(f"{way} {part}" for part, way in blows)
        for one in struck:
            await self._whole(one.up, f"{what}: another process")
        up = time.monotonic()
        for one in struck:
            await self._whole(one.whole, f"{what}: it works again")
        losts = [await self._left(one, what) for one in struck]
        await self._whole(partial(self._answered, time.monotonic()), "calls are answered")
        return Fault(blows, began, tuple(losts), up, time.monotonic())

    async def _left(self, one: _Struck, what: str) -> float:
        """Return when all that was hit was gone."""
        if not one.leaves:
            return one.lost
        await self._whole(lambda: not any(map(_runs, one.leaves)), f"{what}: the former has ended")
        return time.monotonic()

    async def _strike(self, part: str, way: str) -> _Struck:
        if part == "postgresql":
            return await self._strike_postgresql(way)
        if part == "replica":
            return await self._strike_replica(way)
        if part == "worker":
            return await self._strike_worker(way)
        return await self._strike_service(part, way)

    async def _strike_service(self, name: str, way: str) -> _Struck:
        # One that has ended by itself is being started again: see the report's restarts.
        await self._whole(lambda: self._pid(name) is not None, f"{name} runs")
        process = self._platform.service(name)
        if way == "restart" and name == "inference-router":
            # A router renews its workers, without a restart of its own.
            children = process.children()
            before = {child.pid for child in children}
            process.send_signal(signal.SIGHUP)
            return _Struck(
                time.monotonic(),
                lambda: len(self._workers() - before) >= len(before),
                lambda: True,
                tuple(children),
            )
        children = process.children() if name == "inference-router" else []
        crash = way == "crash"
        lost = await self._hurt([process, *(children if crash else ())], way)

        def up() -> bool:
            return self._pid(name) not in {None, process.pid} or way == "pause"

        async def whole() -> bool:
            return await self._answers() and self._state(name) == "running"

        return _Struck(lost, up, whole, tuple(children) if way == "kill" else ())

    async def _strike_worker(self, way: str) -> _Struck:
        before = self._workers()
        process = psutil.Process(self._random.choice(sorted(before)))
        lost = await self._hurt([process], way)

        def up() -> bool:
            others = self._workers() - {process.pid}
            return len(others) >= len(before) or way == "pause"

        return _Struck(lost, up, lambda: True)

    async def _strike_replica(self, way: str) -> _Struck:
        session = self._random.choice(self._sessions)
        status = await self._client.inferencesessions.status(session)
        replica = self._random.choice([one for one in status.replicas if one.phase == "Ready"])
        assert replica.process_id is not None
        lost = await self._hurt([psutil.Process(replica.process_id)], way)

        async def replaced() -> bool:
            now = await self._client.inferencesessions.status(session, timeout=_RECOVERS_SECONDS)
            ready = {one.id for one in now.replicas if one.phase == "Ready"}
            return (replica.id not in ready or way == "pause") and (
                len(ready) == now.desired_replicas
            )

        # Who has to start another one may be the next to be hit.
        return _Struck(lost, lambda: True, replaced)

    async def _strike_postgresql(self, way: str) -> _Struck:
        assert self._postgresql is not None
        if way == "pause":
            process = psutil.Process(self._postgresql.pid)
            await self._hurt([process, *process.children(recursive=True)], way)
        else:
            number = signal.SIGKILL if way == "kill" else signal.SIGINT
            await asyncio.to_thread(self._postgresql.stop, number)
            await asyncio.to_thread(self._postgresql.start)
        return _Struck(time.monotonic(), lambda: True, self._answers)

    async def _hurt(self, processes: list[psutil.Process], way: str) -> float:
        """Do it, and return when what was hit was gone."""
        if way == "pause":
            for one in processes:
                one.suspend()
            await asyncio.sleep(_PAUSE_SECONDS)
            for one in processes:
                one.resume()
            return time.monotonic()
        for one in processes:
            one.send_signal(signal.SIGTERM if way == "restart" else signal.SIGKILL)
        await self._whole(lambda: not any(map(_runs, processes)), "it has ended")
        return time.monotonic()

    async def _whole(self, condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
        await eventually(condition, what, timeout=_RECOVERS_SECONDS)

    async def _answers(self) -> bool:
        await self._client.installation(timeout=_RECOVERS_SECONDS)
        await self._client.inferencesessions.status(self._sessions[0], timeout=_RECOVERS_SECONDS)
        return bool(self._workers())

    def _pid(self, name: str) -> int | None:
        for record in self._platform.record()["services"]:
            if record["name"] == name and record["pid"] is not None:
                return int(record["pid"])
        return None

    def _state(self, name: str) -> str:
        return next(
            str(one["state"]) for one in self._platform.record()["services"] if one["name"] == name
        )

    def _workers(self) -> set[int]:
        try:
            router = self._platform.service("inference-router")
            return {
                child.pid for child in router.children() if child.status() != psutil.STATUS_ZOMBIE
            }
        except (AssertionError, psutil.NoSuchProcess):
            return set()  # it is being started again


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
