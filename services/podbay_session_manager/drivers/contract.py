"""The contract of all drivers.

A driver starts, lists and stops replicas. It decides nothing: what should run is planned
elsewhere. It owns what carries its mark, tells all of it, and survives what happens to the
session manager: whatever a driver was told may be told again after a crash.

The contract does not assume that Podbay places a replica: `LaunchSpec.node` may be empty, and then
the engine behind the driver chooses and `ObservedReplica.node` tells. A driver may reach one node
or many (`nodes`).
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from podbay_session_manager.records import Reason, ServiceSpec, Serving

__all__ = [
    "DriverUnreachableError",
    "LaunchSpec",
    "LogChunk",
    "NodeFacts",
    "NotPermittedError",
    "ObservedReplica",
    "ReplicaDriver",
    "ReplicaStillRunningError",
    "StartFailedError",
    "StartFailure",
    "StartProgress",
    "UnknownReplicaError",
]


class DriverUnreachableError(Exception):
    """The engine cannot be reached: what it runs is unknown, never gone. The text says more."""


class NotPermittedError(DriverUnreachableError):
    """Nothing was done, as the session manager does not lead; see `ReplicaDriver.permitted`."""

    def __init__(self) -> None:
        super().__init__("this session manager does not lead at this moment, and has done nothing")


def _always() -> bool:
    return True


class StartFailedError(Exception):
    """A replica could not be started, and nothing of it is left.

    Args:
        reason: Why, out of the catalogue.
        message: Why, for people: what happened, the evidence, the way out.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


StartFailure = StartFailedError | DriverUnreachableError
"""Why a start came to nothing: what a driver tells, and no defect of it."""


class UnknownReplicaError(Exception):
    """The driver holds nothing of this replica, not even a log."""


class ReplicaStillRunningError(Exception):
    """A replica cannot be removed before it has ended."""


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """All that a driver needs to start a replica."""

    replica_id: str
    session_id: str
    service: ServiceSpec
    serving: Serving
    node: str = ""
    """The node it was placed on; empty where the engine places."""
    gpus: tuple[str, ...] = ()
    """The ids of the GPUs that are the replica's alone, as the node declares them."""


@dataclass(frozen=True, slots=True)
class ObservedReplica:
    """A replica as its driver sees it."""

    replica_id: str
    session_id: str
    running: bool
    """False once it has verifiably ended: no process of it is left."""
    exit_code: int | None = None
    """Of an ended one: its exit code, or 128 and the number of the signal that killed it; None
    where nothing is left that tells."""
    host: str = ""
    port: int = 0
    pid: int | None = None
    node: str = ""
    reason: Reason = Reason.NONE
    """Of an ended one: why, where the driver knows better than by the exit code."""
    message: str = ""
    """What belongs to `reason`, for people."""
    lost_gpus: str = ""
    """Of a running one: by what its GPUs are seen to have vanished in it, for people."""


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A piece of a replica's log."""

    offset: int
    """The position of its first byte. Larger than what was asked for where the log's beginning
    was dropped: logs are bounded, and keep what is newest."""
    data: bytes
    end: int
    """The position after the last byte that the log holds now."""
    times: tuple[tuple[int, float | None], ...] = ()
    """When it was written, as far as is known: positions in order, each with the time in seconds
    since 1970 of the bytes from there to the next; None, or no position, where nobody noted it."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a driver knows of a node."""

    name: str
    address: str
    """The host at which its replicas are reached."""
    cpus: int
    memory_bytes: int
    warnings: tuple[str, ...] = ()
    """What differs from the node's declaration, or limits what it can do, for people."""
    failed_gpus: tuple[str, ...] = ()
    """The ids of declared GPUs that cannot be used now."""
    engine: str = ""
    """What only this container engine says of itself; empty where that is not known."""


@dataclass(frozen=True, slots=True)
class StartProgress:
    """How far a start has come that takes long."""

    doing: str
    """What is done now, for people, as "pulling the image"."""
    done_bytes: int = 0
    total_bytes: int = 0
    """How many there are as far as is known; 0 where that is not known."""
    moved_at: float = 0.0
    """When it last came further, in seconds of a monotonic clock (the event loop's)."""


class ReplicaDriver(abc.ABC):
    """Starts, lists and stops replicas of one kind.

    Every method may raise `DriverUnreachableError`, after which nothing is known of what it was
    asked. Methods may be called for several replicas at once, and are cancelled when the session
    manager stops: half of a step must never stay without a trace that `list` shows.
    """

    name: str
    """The driver's own name, as "process"; that of one for a single node ends with the node's, as
    "docker/n1"."""
    kind: str
    """The name that the settings use, as "docker"; the driver's own name where it has one only."""

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        if "kind" not in cls.__dict__ and "name" in cls.__dict__:
            cls.kind = cls.name

    def __init__(self) -> None:
        self.permitted: Callable[[], bool] = _always
        """Whether the session manager leads: without that nothing is started, stopped or removed.
        May be asked in any thread."""
        self.changed = asyncio.Event()
        """Set whenever something may have changed. A hint: it can come too often and can be
        missed; what `list` says is the truth. Whoever waits clears it."""

    starts_at_once: int = 8
    """How many starts it is told of at once; further ones wait."""

    @property
    def starting(self) -> Collection[str]:
        """The replicas whose start goes on, also where nobody waits for it any more.

        `list` need not show them yet. None where a start ends with the one who waits for it.
        """
        return ()

    @abc.abstractmethod
    def supports(self, service: ServiceSpec) -> str | None:
        """Return None where the driver can run the service, else why not, for people. Pure."""

    @abc.abstractmethod
    async def nodes(self) -> Sequence[NodeFacts]:
        """Return the nodes that the driver reaches, also those that are full. Idempotent."""

    @abc.abstractmethod
    async def start(self, spec: LaunchSpec) -> None:
        """Start a replica.

        Idempotent by the replica's id: a replica that the driver holds already, running or
        ended, is left as it is. Returns when it was started, not when it is ready.

        Raises:
            StartFailedError: It cannot be started, or was stopped before it ran; nothing is left
                of it, except a log.
        """

    @abc.abstractmethod
    async def list(self) -> Sequence[ObservedReplica]:
        """Return all replicas that the driver holds: running ones, and ended ones until removed.

        Idempotent. What is not in it does not run.

        Raises:
            DriverUnreachableError: Nothing is known now; nothing may be taken as gone.
        """

    @abc.abstractmethod
    async def stop(self, replica_id: str, grace: float) -> None:
        """Ask a replica to end, and force it after `grace` seconds.

        Returns at once; `list` tells when it has ended. Idempotent: a further call can shorten the
        grace, never lengthen it; a replica that has ended or is not known is left alone. A start
        that is on its way is given up, where it may take long and nothing of it runs yet.
        """

    @abc.abstractmethod
    async def remove(self, replica_id: str) -> None:
        """Give up what is held for an ended replica, so that `list` leaves it out; keep its log.

        Idempotent.

        Raises:
            ReplicaStillRunningError: It has not verifiably ended.
        """

    @abc.abstractmethod
    async def read_log(self, replica_id: str, offset: int, limit: int) -> LogChunk:
        """Return up to `limit` bytes of a log from `offset` on.

        A negative offset counts from the end. Works while the replica runs, after it ended, and
        after it was removed. Idempotent.

        Raises:
            UnknownReplicaError: There is no log of this replica.
        """

    @abc.abstractmethod
    async def drop_logs(self, keep: frozenset[str]) -> None:
        """Delete the logs of removed replicas whose ids are not in `keep`. Idempotent."""

    def progress(self, replica_id: str) -> StartProgress | None:  # noqa: ARG002 # of others
        """Return how far the start of a replica has come; None where none is on its way.

        A start may take as long as it comes further: an image of many gigabytes has to be pulled.
        """
        return None

    async def drop_data(self, keep: frozenset[str]) -> None:  # noqa: B027 # most have none
        """Delete copies of data that no replica uses and whose resource's id is not in `keep`.

        Idempotent. Drivers that mount data where it lies have none.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Release what the driver itself holds; what survives it goes on. Idempotent."""
