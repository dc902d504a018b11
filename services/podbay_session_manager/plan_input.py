"""What the planner sees and what it says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from podbay_session_manager.drivers.contract import ObservedReplica
from podbay_session_manager.records import ReplicaRecord, SessionRecord

__all__ = [
    "Action",
    "NodeRecord",
    "Plan",
    "ProbeState",
    "RemoveReplica",
    "StartReplica",
    "StopReplica",
    "World",
]


@dataclass(frozen=True, slots=True)
class ProbeState:
    """What the prober knows of a replica since it began to ask."""

    answered: bool = False
    """Whether the last probe was answered with 2xx."""
    failures: int = 0
    """How many probes were refused, or answered with another status, since the last 2xx."""
    silences: int = 0
    """How many probes got no answer in their time since the last 2xx. A server that does one thing
    at a time is silent while it works on a call."""
    seen: str = ""
    """What the last failed probe met, for people."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node that replicas can be placed on."""

    name: str
    driver: str
    """The driver that reaches it."""
    cordoned: bool = False
    address: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    unreachable: str = ""
    """Why its driver does not reach it; empty where it does."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything that a plan depends on, besides the time."""

    sessions: Mapping[str, SessionRecord]
    """The sessions that have not ended."""
    replicas: Mapping[str, Mapping[str, ReplicaRecord]]
    """Their replicas, by session and id; ended ones too, as long as they are kept."""
    observed: Mapping[str, Mapping[str, ObservedReplica] | None]
    """What each driver lists, by the replica's id; None where it cannot be reached."""
    probes: Mapping[str, ProbeState] = field(default_factory=dict)
    tails: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The last log lines of replicas that may fail in this pass."""
    starting: frozenset[str] = frozenset()
    """Replicas whose start is on its way to the driver at this moment."""
    drained: frozenset[str] = frozenset()
    """Replicas of which every router knows that they take no calls."""
    nodes: tuple[NodeRecord, ...] = ()
    halting: bool = False
    """True where all replicas shall end and their sessions shall stay."""


@dataclass(frozen=True, slots=True)
class StartReplica:
    """Tell a driver to start a replica."""

    replica_id: str
    session_id: str
    driver: str


@dataclass(frozen=True, slots=True)
class StopReplica:
    """Tell a driver to stop a replica."""

    replica_id: str
    driver: str
    grace: float


@dataclass(frozen=True, slots=True)
class RemoveReplica:
    """Tell a driver to give up what it holds of an ended replica."""

    replica_id: str
    driver: str


Action = StartReplica | StopReplica | RemoveReplica


@dataclass(slots=True)
class Plan:
    """What to store, and then what to do."""

    sessions: dict[str, SessionRecord] = field(default_factory=dict)
    """Sessions that change."""
    replicas: dict[str, ReplicaRecord] = field(default_factory=dict)
    """Replicas that change or are new."""
    forgotten: dict[str, str] = field(default_factory=dict)
    """Ended replicas that are kept no longer: their sessions by id."""
    actions: list[Action] = field(default_factory=list)
    """What drivers are told, once all this is stored. Each may be told again."""
    wake_at: float | None = None
    """When the next deadline passes; None where there is none."""

    def wake(self, at: float | None) -> None:
        """Ask for another plan at a time, if no earlier one is asked for."""
        if at is not None and (self.wake_at is None or at < self.wake_at):
            self.wake_at = at

    @property
    def decides(self) -> bool:
        """Whether there is anything to store."""
        return bool(self.sessions or self.replicas or self.forgotten)
