"""A driver without processes, to be scripted by tests. It keeps the contract like the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from podbay_session_manager.drivers.contract import (
    DriverUnreachableError,
    LaunchSpec,
    LogChunk,
    NodeFacts,
    ObservedReplica,
    ReplicaDriver,
    ReplicaStillRunningError,
    StartFailedError,
    UnknownReplicaError,
)
from podbay_session_manager.records import LOCAL_NODE, Reason, ServiceSpec

__all__ = ["Behaviour", "FakeDriver", "FakeEngine"]

_KILLED = 137


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How replicas of a service behave."""

    start_reason: Reason = Reason.NONE
    """Fails starts with this reason."""
    exit_code: int | None = None
    """Ends as soon as it was started, with this exit code."""
    ignores_stop: bool = False
    """Ends only when its grace is over."""
    pulls: bool = False
    """Its start goes on until it is stopped, whoever waits for it, as with a huge image."""
    log: str = ""
    """What it writes."""


@dataclass(slots=True)
class _Fake:
    seen: ObservedReplica
    behaviour: Behaviour
    gpus: tuple[str, ...] = ()
    kill_at: float | None = None


@dataclass(slots=True)
class FakeEngine:
    """What outlives a fake driver, as processes outlive a session manager."""

    replicas: dict[str, _Fake] = field(default_factory=dict)
    logs: dict[str, bytes] = field(default_factory=dict)
    next_port: int = 40000
    port: int | None = None
    """Where all replicas seem to serve; None for a port of each, on which nothing does."""


class FakeDriver(ReplicaDriver):
    """A driver whose engine is a dictionary.

    Args:
        now: The time in seconds, for graces.
        engine: What an earlier fake left running; a new one unless given.
        behaviours: How services behave, by name; those that are not named just run.
        facts: The one node that it reaches.
        kind: What sessions ask for; of any other kind than "fake" it runs every service, and its
            name ends with the node's, as "docker/n1".
    """

    name = "fake"

    def __init__(
        self,
        now: Callable[[], float],
        *,
        engine: FakeEngine | None = None,
        behaviours: Mapping[str, Behaviour] | None = None,
        facts: NodeFacts | None = None,
        kind: str = "fake",
    ) -> None:
        super().__init__()
        self.facts = facts or NodeFacts(LOCAL_NODE, "127.0.0.1", 1, 1 << 30)
        if kind != self.kind:
            self.kind = kind
            self.name = f"{kind}/{self.facts.name}"
        self.engine = engine or FakeEngine()
        self.behaviours = dict(behaviours or {})
        self.unreachable = False
        """Whether every method fails as if the engine could not be reached."""
        self.answers = asyncio.Event()
        """Cleared where it does not tell yet what it has and what it holds."""
        self.answers.set()
        self._now = now
        self._pulls: dict[str, tuple[Behaviour, asyncio.Event]] = {}

    @property
    def starting(self) -> Collection[str]:
        """The replicas whose start goes on."""
        return self._pulls.keys()

    def supports(self, service: ServiceSpec) -> str | None:
        """Return None for the kind "mock", and for every service of a node of its own."""
        mine = service.kind == "mock" or self.kind != "fake"
        return None if mine else f"it does not run the kind {service.kind!r}"

    async def nodes(self) -> Sequence[NodeFacts]:
        """Return one node."""
        self._reach()
        await self.answers.wait()
        return [self.facts]

    async def start(self, spec: LaunchSpec) -> None:
        """Make an entry, or fail as scripted."""
        self._reach()
        if spec.replica_id in self.engine.replicas:
            return
        behaviour = self.behaviours.get(spec.service.name, Behaviour())
        if behaviour.start_reason is not Reason.NONE:
            raise StartFailedError(behaviour.start_reason, f"scripted: {behaviour.start_reason}")
        if behaviour.pulls:
            _, ended = self._pulls.setdefault(spec.replica_id, (behaviour, asyncio.Event()))
            await ended.wait()
            raise StartFailedError(Reason.REPLICA_STOPPED, "scripted: stopped while it started")
        self.engine.next_port += 1
        seen = ObservedReplica(
            replica_id=spec.replica_id,
            session_id=spec.session_id,
            running=behaviour.exit_code is None,
            exit_code=behaviour.exit_code,
            host="127.0.0.1",
            port=self.engine.port or self.engine.next_port,
            pid=self.engine.next_port,
            node=self.facts.name,
        )
        self.engine.replicas[spec.replica_id] = _Fake(seen, behaviour, spec.gpus)
        self.engine.logs[spec.replica_id] = behaviour.log.encode()
        self.changed.set()

    async def list(self) -> Sequence[ObservedReplica]:
        """Return the entries."""
        self._reach()
        await self.answers.wait()
        for replica_id, fake in self.engine.replicas.items():
            if fake.kill_at is not None and self._now() >= fake.kill_at:
                self.exit(replica_id, _KILLED)
        return [fake.seen for fake in self.engine.replicas.values()]

    async def stop(self, replica_id: str, grace: float) -> None:
        """End an entry at once, or at the end of the grace where it ignores being asked."""
        self._reach()
        behaviour, _ = self._pulls.get(replica_id, (None, None))
        if behaviour is not None and not behaviour.ignores_stop:
            self._end_pull(replica_id)
        fake = self.engine.replicas.get(replica_id)
        if fake is None or not fake.seen.running:
            return
        if not fake.behaviour.ignores_stop or grace <= 0:
            self.exit(replica_id, _KILLED if fake.behaviour.ignores_stop else 0)
            return
        kill_at = self._now() + grace
        fake.kill_at = kill_at if fake.kill_at is None else min(kill_at, fake.kill_at)

    async def remove(self, replica_id: str) -> None:
        """Drop an entry, and keep its log."""
        self._reach()
        fake = self.engine.replicas.get(replica_id)
        if fake is None:
            return
        if fake.seen.running:
            raise ReplicaStillRunningError(f"replica {replica_id} has not ended")
        del self.engine.replicas[replica_id]
        self.changed.set()

    async def read_log(self, replica_id: str, offset: int, limit: int) -> LogChunk:
        """Return a piece of what the behaviour writes."""
        self._reach()
        data = self.engine.logs.get(replica_id)
        if data is None:
            raise UnknownReplicaError(f"there is no log of replica {replica_id}")
        start = min(max(0, len(data) + offset if offset < 0 else offset), len(data))
        return LogChunk(start, data[start : start + limit], len(data))

    async def drop_logs(self, keep: frozenset[str]) -> None:
        """Drop the logs of removed entries."""
        self._reach()
        kept = keep | self.engine.replicas.keys()
        self.engine.logs = {k: v for k, v in self.engine.logs.items() if k in kept}

    async def close(self) -> None:
        """Do nothing: the engine is not the driver's."""

    def exit(self, replica_id: str, exit_code: int) -> None:
        """Let a replica end, as if its process had."""
        fake = self.engine.replicas[replica_id]
        if fake.seen.running:
            fake.seen = replace(fake.seen, running=False, exit_code=exit_code)
            self.changed.set()

    def end_pulls(self) -> None:
        """Let all starts end that go on; nothing runs after them."""
        for replica_id in list(self._pulls):
            self._end_pull(replica_id)

    def _end_pull(self, replica_id: str) -> None:
        _, ended = self._pulls.pop(replica_id)
        ended.set()
        self.changed.set()

    def _reach(self) -> None:
        if self.unreachable:
            raise DriverUnreachableError("scripted: the engine cannot be reached")
