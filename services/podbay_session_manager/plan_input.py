"""What the planner sees and what it says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from podbay_kit.quotas import Quota
from podbay_session_manager.declared_nodes import DeclaredGpu, DeclaredNode
from podbay_session_manager.drivers.contract import ObservedReplica
from podbay_session_manager.model_gate import ModelState
from podbay_session_manager.policy import Policy
from podbay_session_manager.records import ReplicaRecord, SessionRecord

__all__ = [
    "Action",
    "FailingReplica",
    "NodeRecord",
    "Plan",
    "ProbeState",
    "RemoveReplica",
    "Scene",
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
    refused: bool = False
    """Whether nothing listened when the last probe came."""
    listened: bool = False
    """Whether a connection was ever taken."""


@dataclass(frozen=True, slots=True)
class FailingReplica:
    """What routers tell of a replica that is ready and whose calls fail."""

    since: float
    """When it was first told of, in seconds since 1970."""
    told: float
    """When it was last told of; it has not recovered in between."""
    message: str
    """How the calls fail, for people."""
    set_aside: bool = False
    """Whether the router that told last leaves it alone; it does so where others are healthy."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node that replicas can be placed on."""

    name: str
    driver: str
    """The driver that reaches it."""
    cordoned: bool = False
    address: str = ""
    cpus: float = 0.0
    """The processors that replicas may use; 0 for no limit."""
    memory_bytes: int = 0
    """The memory that replicas may use; 0 for no limit."""
    unreachable: str = ""
    """Why its driver does not reach it; empty where it does."""
    kind: str = ""
    """What sessions ask for; the driver's name where it is empty."""
    unreachable_since: float | None = None
    """When its driver was first found not to reach it, in seconds since 1970; None where it does,
    and where nobody plans with it."""
    silent_since: float | None = None
    """Since when its driver owes an answer, to what the node has or to what runs there, in seconds
    since 1970; None where it owes none. Such a node counts as `unreachable`, too."""
    draining: bool = False
    """Whether its replicas shall move away, and no new ones come."""
    gpus: tuple[DeclaredGpu, ...] = ()
    set_aside: Mapping[str, str] = field(default_factory=dict)
    """GPUs that are not given out because something is wrong with them, and what; by id."""
    spot: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    """How what its driver sees differs from what was declared, for people."""
    declared: DeclaredNode | None = None
    """As it was declared; None for what a driver of this machine brings."""
    twin: str = ""
    """The node that is the same container engine and takes replicas in its place; what is there
    would be counted, and its GPUs be given, twice otherwise. Empty where there is none."""

    @property
    def runs(self) -> str:
        """The kind of driver that sessions ask for."""
        return self.kind or self.driver


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
    underway: frozenset[str] = frozenset()
    """Replicas whose start goes on in their driver, also where nobody waits for it any more: what
    they were placed on is theirs until that has ended."""
    drained: frozenset[str] = frozenset()
    """Replicas of which every router knows that they take no calls."""
    failing: Mapping[str, FailingReplica] = field(default_factory=dict)
    """Replicas whose calls fail although they are ready, by id."""
    nodes: tuple[NodeRecord, ...] = ()
    models: Mapping[str, ModelState] = field(default_factory=dict)
    """Where the models stand whose files waiting replicas mount, by id."""
    halting: bool = False
    """True where all replicas shall end and their sessions shall stay."""
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    """How much accounts may have; one that is not named has no limits."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What all steps of one pass look at."""

    world: World
    now: float
    """The time, in seconds since 1970."""
    policy: Policy
    lost: Mapping[str, NodeRecord]
    """Nodes that were out of reach longer than their grace, by their driver."""
    set_aside: Mapping[str, Mapping[str, str]]
    """GPUs with which something is wrong, and what: by driver and id."""
    draining: frozenset[tuple[str, str]]
    """Nodes that are emptied, by driver and name."""
    awaited: Mapping[str, float]
    """Drivers that have been silent for a moment only, and until when they are waited for."""

    @classmethod
    def of(cls, world: World, now: float, policy: Policy) -> Scene:
        """Return the scene of a pass."""
        return cls(
            world,
            now,
            policy,
            lost={
                node.driver: node
                for node in world.nodes
                if node.unreachable_since is not None
                and now - node.unreachable_since >= policy.node_grace
            },
            set_aside={node.driver: node.set_aside for node in world.nodes if node.set_aside},
            draining=frozenset((node.driver, node.name) for node in world.nodes if node.draining),
            awaited={
                node.driver: until
                for node in world.nodes
                if node.silent_since is not None
                and now < (until := node.silent_since + policy.silent_node)
            },
        )


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
