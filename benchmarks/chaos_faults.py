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

__all__ = ["LOSSES", "Breaker", "Fault"]

_RECOVERS_SECONDS = 120.0
_PAUSE_SECONDS = 1.0

LOSSES = {
    "replica": frozenset({"REPLICA_CONNECTION_LOST"}),
    "worker": frozenset({"CONNECTION_LOST"}),
    "inference-router": frozenset({"CONNECTION_LOST"}),
}
"""How calls may fail that a part had when it ended; the other parts carry none."""


@dataclass(frozen=True)
class Fault:
    """What was done to a part.

    Attributes:
        part: The part, as "replica".
        way: "kill", "pause" or "restart".
        began: When, by the monotonic clock, in seconds.
        recovered: When it was whole again.
    """

    part: str
    way: str
    began: float
    recovered: float

    def explains(self, reason: str, began: float, ended: float) -> bool:
        """Whether a call of this time may have failed for a reason by this."""
        none: frozenset[str] = frozenset()
        lost = none if self.way == "pause" else LOSSES.get(self.part, none)
        return reason in lost and began <= self.recovered and ended >= self.began


class Breaker:
    """Breaks one part after the other.

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

    def ways(self) -> list[tuple[str, str]]:
        """Return all that can be done."""
        parts = ["registry", "session-manager", "inference-router", "worker", "replica"]
        if self._postgresql is not None:
            parts.append("postgresql")
        found = [(part, way) for part in parts for way in ("kill", "pause", "restart")]
        # A session manager of `podbay up` that is asked to end takes its replicas with it: that is
        # how the platform ends, not something that calls could live through.
        found.remove(("session-manager", "restart"))
        return found

    async def run(self, until: float, every: float) -> None:
        """Break parts until a time of the monotonic clock: all ways in turn, shuffled anew.

        Args:
            until: The time.
            every: Seconds from a recovery to the next fault.
        """
        left: list[tuple[str, str]] = []
        await asyncio.sleep(every)
        while time.monotonic() < until:
            if not left:
                left = self.ways()
                self._random.shuffle(left)
            part, way = left.pop()
            began = time.monotonic()
            if part == "postgresql":
                await self._break_postgresql(way)
            elif part == "replica":
                await self._break_replica(way)
            elif part == "worker":
                await self._break_worker(way)
            else:
                await self._break_service(part, way)
            await self._whole(partial(self._answered, time.monotonic()), "calls are answered")
            self.faults.append(Fault(part, way, began, time.monotonic()))
            await asyncio.sleep(every)

    async def _break_service(self, name: str, way: str) -> None:
        # One that has ended by itself is being started again: see the report's restarts.
        await self._whole(lambda: self._pid(name) is not None, f"{name} runs")
        process = self._platform.service(name)
        if way == "restart" and name == "inference-router":
            # A router renews its workers, without a restart of its own.
            before = {child.pid for child in process.children()}
            process.send_signal(signal.SIGHUP)
            await self._whole(lambda: len(self._workers() - before) >= len(before), "new workers")
            return

        await self._hurt(
            process, way, lambda: self._pid(name) not in {None, process.pid}, f"{name} runs"
        )
        # It answers again, and the router has its workers.
        await self._whole(self._answers, f"{name} answers")

    async def _break_worker(self, way: str) -> None:
        before = self._workers()
        process = psutil.Process(self._random.choice(sorted(before)))
        await self._hurt(
            process,
            way,
            lambda: len(self._workers() - {process.pid}) >= len(before),
            "a new worker",
        )

    async def _break_replica(self, way: str) -> None:
        session = self._random.choice(self._sessions)
        status = await self._client.inferencesessions.status(session)
        replica = self._random.choice([one for one in status.replicas if one.phase == "Ready"])
        assert replica.process_id is not None

        async def replaced() -> bool:
            now = await self._client.inferencesessions.status(session)
            ready = {one.id for one in now.replicas if one.phase == "Ready"}
            return replica.id not in ready and len(ready) == now.desired_replicas

        await self._hurt(psutil.Process(replica.process_id), way, replaced, "another replica")

    async def _break_postgresql(self, way: str) -> None:
        assert self._postgresql is not None
        if way == "pause":
            process = psutil.Process(self._postgresql.pid)
            family = [process, *process.children(recursive=True)]
            for one in family:
                one.suspend()
            await asyncio.sleep(_PAUSE_SECONDS)
            for one in family:
                one.resume()
        else:
            number = signal.SIGKILL if way == "kill" else signal.SIGINT
            await asyncio.to_thread(self._postgresql.stop, number)
            await asyncio.to_thread(self._postgresql.start)
        await self._whole(self._answers, "the services answer")

    async def _hurt(
        self,
        process: psutil.Process,
        way: str,
        whole: Callable[[], bool | Awaitable[bool]],
        what: str,
    ) -> None:
        if way == "pause":
            process.suspend()
            await asyncio.sleep(_PAUSE_SECONDS)
            process.resume()
            return
        process.send_signal(signal.SIGKILL if way == "kill" else signal.SIGTERM)
        await self._whole(whole, what)

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

    def _workers(self) -> set[int]:
        try:
            router = self._platform.service("inference-router")
            return {
                child.pid for child in router.children() if child.status() != psutil.STATUS_ZOMBIE
            }
        except (AssertionError, psutil.NoSuchProcess):
            return set()  # it is being started again
