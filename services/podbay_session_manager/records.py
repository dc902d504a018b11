"""What is stored about sessions and replicas, as values.

Pure. Times are seconds since 1970 in UTC, durations are seconds. Records never change: a decision
makes a new one, which is stored before anybody acts on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from podbay_session_manager.machine import (
    ReplicaPhase,
    SessionState,
    check_replica_transition,
    check_session_transition,
)

__all__ = [
    "GPUS_VARIABLE",
    "LOCAL_NODE",
    "PORT_VARIABLE",
    "REPLICA_VARIABLE",
    "SESSION_VARIABLE",
    "DataMount",
    "Needs",
    "Reason",
    "ReplicaRecord",
    "ScratchMount",
    "ServiceSpec",
    "Serving",
    "SessionRecord",
]

LOCAL_NODE: Final = "local"
"""The name of the node that the drivers of this machine reach."""

PORT_VARIABLE: Final = "PORT"
SESSION_VARIABLE: Final = "PODBAY_SESSION_ID"
REPLICA_VARIABLE: Final = "PODBAY_REPLICA_ID"
"""By it every process of a replica can be told, wherever it went."""
GPUS_VARIABLE: Final = "NVIDIA_VISIBLE_DEVICES"
"""By it a container's runtime is told which GPUs the container has."""
"""The environment variable that tells a replica where to serve."""


class Reason(StrEnum):
    """The reasons of `podbay.v1.ErrorReason` that the session manager gives, by their names."""

    NONE = ""
    SESSION_NOT_READY = "SESSION_NOT_READY"
    SESSION_TERMINATED = "SESSION_TERMINATED"
    SESSION_EXPIRED = "SESSION_EXPIRED"
    SESSION_FAILED = "SESSION_FAILED"
    COMMAND_NOT_FOUND = "COMMAND_NOT_FOUND"
    COMMAND_NOT_EXECUTABLE = "COMMAND_NOT_EXECUTABLE"
    MOCK_NOT_IMPORTABLE = "MOCK_NOT_IMPORTABLE"
    REPLICA_EXITED = "REPLICA_EXITED"
    REPLICA_KILLED = "REPLICA_KILLED"
    NEVER_READY = "NEVER_READY"
    PORT_NOT_OPENED = "PORT_NOT_OPENED"
    PORT_TAKEN = "PORT_TAKEN"
    WORKING_DIRECTORY_NOT_FOUND = "WORKING_DIRECTORY_NOT_FOUND"
    UNSUPPORTED_SERVICE = "UNSUPPORTED_SERVICE"
    START_FAILED = "START_FAILED"
    REPLICA_LOST = "REPLICA_LOST"
    PROBE_FAILED = "PROBE_FAILED"
    REPLICA_FAILING = "REPLICA_FAILING"
    NO_NODE_AVAILABLE = "NO_NODE_AVAILABLE"
    REPLICA_STOPPED = "REPLICA_STOPPED"
    MOCK_PROCESS_ENDED = "MOCK_PROCESS_ENDED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    INSUFFICIENT_CAPACITY = "INSUFFICIENT_CAPACITY"
    NO_SUCH_GPU_TYPE = "NO_SUCH_GPU_TYPE"
    NODE_LOST = "NODE_LOST"
    GPU_FAILED = "GPU_FAILED"
    CRASH_LOOP = "CRASH_LOOP"
    IMAGE_NOT_FOUND = "IMAGE_NOT_FOUND"
    IMAGE_DIGEST_NOT_FOUND = "IMAGE_DIGEST_NOT_FOUND"
    REGISTRY_UNREACHABLE = "REGISTRY_UNREACHABLE"
    IMAGE_PULL_DENIED = "IMAGE_PULL_DENIED"
    DISK_FULL = "DISK_FULL"
    GPU_UNAVAILABLE = "GPU_UNAVAILABLE"
    DATA_UNAVAILABLE = "DATA_UNAVAILABLE"
    MODEL_NOT_READY = "MODEL_NOT_READY"
    FETCH_FAILED = "FETCH_FAILED"
    QUOTA_LIMIT = "QUOTA_LIMIT"

    @property
    def camel(self) -> str:
        """The form of the platform's reasons, as "CommandNotFound"."""
        return "".join(part.capitalize() for part in self.value.split("_"))


@dataclass(frozen=True, slots=True)
class DataMount:
    """A resource whose files a replica reads."""

    name: str
    path: str
    """Where they are mounted in the replica, read-only."""
    source_kind: str
    """The kind of the resource, as "Model"."""
    source_id: str


@dataclass(frozen=True, slots=True)
class ScratchMount:
    """Empty space for a replica, gone with it."""

    name: str
    path: str
    """Where it is mounted in the replica."""
    capacity_bytes: int


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What a replica runs."""

    kind: str
    """The runner's kind, as "mock"."""
    name: str
    """The service's name; of a mock, the import path of its class."""
    command: tuple[str, ...] = ()
    """The command with its first arguments; empty for a mock."""
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str | None = None
    image: str = ""
    """The image to run, as engines pull it: "host/name@sha256:..."; empty for a process."""
    cpus: float = 0.0
    """The processors that one replica may use; 0 for no limit."""
    memory_bytes: int = 0
    """The memory that one replica may use; 0 for the node's default limit."""
    mounts: tuple[DataMount | ScratchMount, ...] = ()
    egress: bool = False
    """Whether a replica may open connections to the outside."""

    @property
    def is_mock(self) -> bool:
        """Whether the replica is a class of Python, not a command."""
        return not self.command

    @property
    def fixed_port(self) -> int | None:
        """The port that the service insists on; None for any."""
        text = dict(self.env).get(PORT_VARIABLE)
        return int(text) if text is not None and text.isdecimal() else None


@dataclass(frozen=True, slots=True)
class Serving:
    """How replicas are probed, loaded and stopped; every option has its value."""

    readiness_path: str = "/ready"
    start_timeout: float = 60.0
    stop_grace: float = 10.0
    max_concurrency: int = 0
    """How many calls one replica works on at once; 0 for unbounded."""
    safe_to_retry: bool = False
    max_in_flight: int = 0
    """How many calls of the session run at once; 0 for unbounded."""
    queue_length: int | None = None
    """How many calls may wait; None for the router's own setting."""
    queue_timeout: float | None = None
    """How long a call may wait, in seconds; None for the router's own setting."""
    hedge_after: float | None = None
    """Seconds without an answer after which a call is sent to a second replica; None for never."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What one replica needs of its node."""

    gpus: int = 0
    """How many GPUs, all of one type."""
    hardware_types: tuple[str, ...] = ()
    """The types that will do, as "nvidia.com/gpu-t4"; any of them."""
    gpu_memory_bytes: int = 0
    """The least memory of each GPU."""
    cpus: float = 0.0
    """The processors that are set apart for it; 0 for none."""
    memory_bytes: int = 0
    """The memory that is set apart for it; 0 for none."""
    spot: bool = True
    """Whether a node that may be taken away will do; it is then preferred."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session as the planner sees it."""

    id: str
    account: str
    service: ServiceSpec
    serving: Serving
    driver: str
    """The kind of the drivers that run its replicas."""
    desired: int
    """How many replicas shall run."""
    created_at: float
    expires: float | None = None
    state: SessionState = SessionState.ACTIVE
    epoch: int = 1
    """Tokens of earlier epochs are refused."""
    status: str = "Created"
    """The platform's status."""
    status_reason: str | None = None
    """The platform's reason, as "TerminateCommand"."""
    status_message: str | None = None
    ever_ready: bool = False
    ended_reason: Reason = Reason.NONE
    """SESSION_TERMINATED, SESSION_EXPIRED or SESSION_FAILED once it shall end."""
    evidence: Mapping[str, str] = field(default_factory=dict)
    """Why it failed, in parts: "reason", "exitCode", "log"."""
    ended_at: float | None = None
    """When it was decided that it ends."""
    needs: Needs = Needs()
    """What each of its replicas needs of a node."""
    reserved: bool = False
    """Whether it was let in by its account's quota, and counts there until nothing of it runs."""
    gpu_type: str = ""
    """The only type of GPUs that its replicas may have, where its account is charged for it."""

    def ending(
        self,
        now: float,
        *,
        ended_reason: Reason,
        status: str,
        status_reason: str,
        message: str,
        evidence: Mapping[str, str] | None = None,
    ) -> SessionRecord:
        """Return the session as one that shall end."""
        check_session_transition(self.state, SessionState.ENDING)
        return replace(
            self,
            state=SessionState.ENDING,
            ended_reason=ended_reason,
            status=status,
            status_reason=status_reason,
            status_message=message,
            evidence=dict(evidence or {}),
            ended_at=now,
        )

    def ended(self) -> SessionRecord:
        """Return the session as one of which nothing is left."""
        check_session_transition(self.state, SessionState.ENDED)
        return replace(self, state=SessionState.ENDED)


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """A replica as the planner sees it."""

    id: str
    session_id: str
    index: int
    attempt: int
    driver: str
    """The driver that holds it; before it is placed, the kind of driver that will."""
    created_at: float
    transition_at: float
    node: str = ""
    gpus: tuple[str, ...] = ()
    """The GPUs of its node that are its alone, until it is verifiably gone."""
    gpu_type: str = ""
    """The type of these GPUs."""
    phase: ReplicaPhase = ReplicaPhase.PENDING
    deadline: float | None = None
    """When a passing phase must be over."""
    reason: Reason = Reason.NONE
    message: str = ""
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()
    host: str = ""
    port: int = 0
    pid: int | None = None
    ready_at: float | None = None
    """When it was first ready."""
    retry_at: float | None = None
    """Of a failed replica: when it is tried again. Of a waiting one: not before."""
    failures: int = 0
    """How many replicas in a row failed at its index before it."""
    removed: bool = False
    """Whether its driver holds nothing of it any more, except its log."""

    @property
    def holds_node(self) -> bool:
        """Whether its place on its node is taken: from its placing until it is verifiably gone."""
        return self.phase is not ReplicaPhase.PENDING and not self.removed

    @property
    def address(self) -> str:
        """Where it serves, as "127.0.0.1:8000"; empty where that is not known."""
        return f"{self.host}:{self.port}" if self.port else ""

    def moved(
        self,
        phase: ReplicaPhase,
        now: float,
        *,
        deadline: float | None = None,
        reason: Reason | None = None,
        message: str | None = None,
        log_tail: tuple[str, ...] | None = None,
    ) -> ReplicaRecord:
        """Return the replica in another phase.

        Args:
            phase: The phase.
            now: The time.
            deadline: When the phase must be over; None for a phase that may last.
            reason: Why; kept where None.
            message: Why, for people; kept where None.
            log_tail: The last lines of its log; kept where None.

        Raises:
            IllegalTransitionError: The phase cannot follow.
        """
        check_replica_transition(self.phase, phase)
        return replace(
            self,
            phase=phase,
            transition_at=now,
            deadline=deadline,
            reason=self.reason if reason is None else reason,
            message=self.message if message is None else message,
            log_tail=self.log_tail if log_tail is None else log_tail,
            ready_at=now
            if phase is ReplicaPhase.READY and self.ready_at is None
            else self.ready_at,
        )
