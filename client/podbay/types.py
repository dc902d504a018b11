"""What the client returns besides the platform's resources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

__all__ = [
    "Account",
    "AccountQuota",
    "AccountUsage",
    "ApiToken",
    "ApiTokenAndSecret",
    "AuditRecord",
    "CallFailure",
    "Change",
    "Grant",
    "InferResult",
    "Installation",
    "LogLine",
    "ModelFile",
    "NodeGpu",
    "NodeInfo",
    "NodeVerdict",
    "NodesChange",
    "Placement",
    "PlacementNeeds",
    "QuotaShortage",
    "ReplicaStatus",
    "RevokedTokens",
    "SessionExplanation",
    "SessionStatus",
    "SigningKeyInfo",
    "TransferProgress",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Installation:
    """What and where an installation is.

    Attributes:
        id: The id of the installation.
        version: The version of the registry.
        session_manager_endpoint: The session manager's address, as "127.0.0.1:7102"; of several
            all, by commas.
        inference_router_endpoint: The inference router's address.
        account: The account that the client's token acts for.
    """

    id: str
    version: str
    session_manager_endpoint: str
    inference_router_endpoint: str
    account: str


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """Where one replica stands.

    Attributes:
        id: The id.
        index: Which of the session's replicas it is, from 0.
        attempt: Which try at that index it is, from 1.
        phase: "Pending", "Starting", "Probing", "Ready", "Unready", "Draining", "Stopping",
            "Stopped" or "Failed".
        reason: Why it failed or is not ready, as "REPLICA_EXITED"; None where there is nothing to
            say.
        message: Why, for people.
        node: The node that it runs on; empty before it is placed.
        driver: What runs it, as "process".
        exit_code: The exit code of its process; above 128, 128 and the number of the signal.
        log_tail: The last lines of its log, where it failed.
        address: Where it serves, as "127.0.0.1:8000".
        process_id: The id of its process on its node.
        creation_time: When it was made.
        transition_time: When its phase last changed.
        ready_time: When it was first ready.
        retry_time: When it will be tried again.
        gpus: The GPUs of its node that are its alone, by their ids.
        failures: How many replicas in a row failed at its index before it.
        out_of_memory: Whether it was killed because it used more memory than it may.
    """

    id: str
    index: int
    attempt: int
    phase: str
    reason: str | None
    message: str
    node: str
    driver: str
    exit_code: int | None
    log_tail: tuple[str, ...]
    address: str
    process_id: int | None
    creation_time: datetime | None
    transition_time: datetime | None
    ready_time: datetime | None
    retry_time: datetime | None
    gpus: tuple[str, ...] = ()
    failures: int = 0
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class CallFailure:
    """Calls of a session that failed for one reason.

    Attributes:
        reason: Why, out of the catalogue, as "QUEUE_FULL".
        count: How many calls.
        first_time: When the first of them failed.
        last_time: When the last of them failed.
        message: What the last of them was told. It holds no body.
        metadata: The evidence of the last of them, as "httpStatus".
    """

    reason: str
    count: int
    first_time: datetime | None
    last_time: datetime | None
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """Whether a session takes calls, and if not, why.

    Attributes:
        session_id: The session.
        status: Its status, as "Admitted". A session never becomes "Ready".
        reason: Why, in one word.
        message: Why, for people.
        ready: Whether at least one replica takes calls.
        ready_replicas: How many replicas take calls.
        desired_replicas: How many shall run.
        replicas: All that live, and the last that ended at each index.
        explanation: What the session waits for or fails by; empty where all is well.
        revision: The revision of the store that this shows.
        call_failures: The calls that failed within the last hour, by reason, the last one first,
            as routers have told.
    """

    session_id: str
    status: str
    reason: str | None
    message: str | None
    ready: bool
    ready_replicas: int
    desired_replicas: int
    replicas: tuple[ReplicaStatus, ...]
    explanation: str
    revision: int
    call_failures: tuple[CallFailure, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionExplanation:
    """Why a session stands where it stands.

    Attributes:
        status: The status that is explained.
        text: The explanation, in lines for people: what the session waits for or fails by, then
            each replica with its reason, its exit code, when it is tried again, and the last
            lines of its log, then the calls that failed lately, by reason.
    """

    status: SessionStatus
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a replica wrote.

    Attributes:
        replica_id: The replica.
        text: The line without its end.
        offset: The position after the line in the replica's log.
        time: When the end of the line was written, to some 10 ms; None where nobody noted it.
    """

    replica_id: str
    text: str
    offset: int
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class NodeGpu:
    """A GPU of a node.

    Attributes:
        id: Its index or its UUID.
        hardware_type: What sessions ask for, as "nvidia.com/gpu-t4".
        memory_bytes: Its memory; 0 where that is not declared.
        replica_id: The replica whose it is alone; None where it is free.
        session_id: The session of this replica.
        set_aside: Why it is not given out, where something is wrong with it.
    """

    id: str
    hardware_type: str
    memory_bytes: int
    replica_id: str | None
    session_id: str | None
    set_aside: str


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A machine that runs replicas.

    Attributes:
        name: The name.
        driver: What reaches it, as "process".
        state: "Ready", "Cordoned", "Draining" or "Unreachable".
        message: Why the state is what it is.
        address: Where its replicas are reached.
        replicas: How many replicas live on it.
        cpus: Its processors.
        memory_bytes: Its memory.
        gpus: Its GPUs.
        spot: Whether it may be taken away at any time.
        labels: Its labels.
        engine: The address of its container engine; empty where it is not a declared node.
        differences: How what is seen of it differs from what was declared.
        free_cpus: The processors that are not set apart for a replica.
        free_memory_bytes: The memory that is not set apart for a replica.
    """

    name: str
    driver: str
    state: str
    message: str
    address: str
    replicas: int
    cpus: int
    memory_bytes: int
    gpus: tuple[NodeGpu, ...] = ()
    spot: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    engine: str = ""
    differences: tuple[str, ...] = ()
    free_cpus: float = 0.0
    free_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class NodesChange:
    """What happened to nodes.

    Attributes:
        snapshot: True where `nodes` are all there are.
        nodes: The nodes that are new or changed, by name.
        removed: The names of nodes that are gone.
    """

    snapshot: bool
    nodes: tuple[NodeInfo, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlacementNeeds:
    """What one replica needs of its node.

    Attributes:
        driver: The kind of driver that runs it, as "docker".
        gpus: How many GPUs, all of one type.
        hardware_types: The types that will do.
        gpu_memory_bytes: The least memory of each GPU.
        cpus: The processors that are set apart for it.
        memory_bytes: The memory that is set apart for it.
        spot: Whether a node that may be taken away will do.
    """

    driver: str
    gpus: int
    hardware_types: tuple[str, ...]
    gpu_memory_bytes: int
    cpus: float
    memory_bytes: int
    spot: bool


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """Whether a replica fits on a node now.

    Attributes:
        node: The node.
        fits: Whether it fits.
        reasons: Everything that is in the way; empty where it fits.
    """

    node: str
    fits: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the replicas of a session go, or why they wait.

    Attributes:
        needs: What one replica needs.
        desired: How many replicas shall run.
        placed: How many have a place.
        fitting: How many of those that have none would get one now.
        waiting_before: How many replicas of other sessions wait before them.
        reason: Why they wait, as "INSUFFICIENT_CAPACITY"; None where none does.
        summary: The same for people.
        nodes: Every node, and whether one more replica fits there.
        quota: What the account's quota lacks for the session to begin.
    """

    needs: PlacementNeeds
    desired: int
    placed: int
    fitting: int
    waiting_before: int
    reason: str | None
    summary: str
    nodes: tuple[NodeVerdict, ...]
    quota: tuple[QuotaShortage, ...] = ()


@dataclass(frozen=True, slots=True)
class QuotaShortage:
    """A limit of an account's quota that a session does not fit into now.

    Attributes:
        account: The account.
        name: Which limit: "sessions", "replicas", or "gpus." and a hardware type.
        needed: How much the session needs of it.
        used: How much the account uses.
        kept: How much is kept for sessions of the account that wait longer.
        limit: How much it may use.
    """

    account: str
    name: str
    needed: int
    used: int
    kept: int
    limit: int


@dataclass(frozen=True, slots=True)
class Account:
    """What owns resources.

    Attributes:
        id: The id.
        creation_time: When it was made.
    """

    id: str
    creation_time: datetime | None


@dataclass(frozen=True, slots=True)
class AccountQuota:
    """How much an account may have at once; None is not limited.

    Attributes:
        sessions: Sessions that have begun and not ended.
        replicas: The replicas that these shall have.
        gpus: GPUs that these need, by hardware type; a type that is not named is not limited.
        model_bytes: Bytes of the files of its models; a content that is in several counts once.
        requests_in_flight: Calls with tokens of the account that run.
    """

    sessions: int | None = None
    replicas: int | None = None
    gpus: Mapping[str, int] = field(default_factory=dict)
    model_bytes: int | None = None
    requests_in_flight: int | None = None


@dataclass(frozen=True, slots=True)
class AccountUsage:
    """How much an account has now, in the units of `AccountQuota`.

    Attributes:
        sessions: Sessions that have begun and not ended.
        replicas: The replicas that these shall have.
        gpus: GPUs that are set apart for these, by hardware type.
        model_bytes: Bytes of the files of its models, those on their way too.
        requests_in_flight: Calls that run, as the routers told last.
        waiting_sessions: Sessions that wait because of the quota.
    """

    sessions: int
    replicas: int
    gpus: Mapping[str, int]
    model_bytes: int
    requests_in_flight: int
    waiting_sessions: int


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One entry of an audit log: who did what to which resource, and what came of it.

    Attributes:
        id: The id.
        service: Whose log it is in: "registry" or "session-manager".
        time: When it was written.
        actor_account: The account of the token that came; "" where none was accepted.
        actor_token: The id of the API token; "service" for another service, "system" for the
            service itself, "" where no token was accepted.
        peer: Where the call came from, as "10.0.0.7:53412".
        method: The method, as "CreateModel".
        resource: The kind of resource in its plural form, as "models".
        account: The account that owns the resource.
        resource_id: The id of the resource.
        code: The gRPC code by which the call ended; 0 where it did what it should.
        reason: Why it failed, as "PERMISSION_DENIED"; None where it did not.
        call_id: The same for all entries of one call.
        count: How many calls it stands for: refusals that come too fast are summed up.
        first_time: Of several calls, when the first came.
        details: What else is to be known.
    """

    id: str
    service: str
    time: datetime
    actor_account: str
    actor_token: str
    peer: str
    method: str
    resource: str
    account: str
    resource_id: str
    code: int
    reason: str | None
    call_id: str
    count: int
    first_time: datetime | None
    details: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token may do; everything that is set must match, "*" matches everything.

    Attributes:
        resources: Kinds in their plural forms, as "models".
        functions: "create", "get", "query", "edit", "delete", "consume", "terminate".
        accounts: The accounts whose resources are meant.
        entities: The ids that are meant, besides those of `accounts`.
    """

    resources: tuple[str, ...]
    functions: tuple[str, ...]
    accounts: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token that acts for an account, without its secret.

    Attributes:
        id: The public prefix of the secret.
        account: The account that it acts for.
        name: What people call it.
        grants: What it may do.
        creation_time: When it was made.
        expires: When it ends; None for never.
        revoked: When it was revoked; None where it was not.
    """

    id: str
    account: str
    name: str
    grants: tuple[Grant, ...]
    creation_time: datetime | None
    expires: datetime | None
    revoked: datetime | None


@dataclass(frozen=True, slots=True)
class ApiTokenAndSecret:
    """A new token and its secret, which is shown this once.

    Attributes:
        token: The token.
        secret: What callers send.
    """

    token: ApiToken
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RevokedTokens:
    """What came of revoking the tokens of a session.

    Attributes:
        epoch: The session's new epoch: tokens of earlier ones are refused.
        acknowledged: Whether all routers refuse them by now. False where one did not answer in
            time: it refuses them as soon as it hears of it.
    """

    epoch: int
    acknowledged: bool


@dataclass(frozen=True, slots=True)
class SigningKeyInfo:
    """A key of session tokens, without its secret.

    Attributes:
        kid: Its id, as in the header of a token.
        creation_time: When it was made.
        signing: Whether it is the one that signs.
        verifies_until: Until when it is kept to verify what it has signed, at least; None where it
            signed nothing.
    """

    kid: str
    creation_time: datetime | None
    signing: bool
    verifies_until: datetime | None


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """A change of a watched resource.

    Attributes:
        type: "created", "updated" or "deleted".
        resource: The resource as it was after the change.
        revision: The revision of the change; a watch that starts here goes on after it.
    """

    type: str
    resource: T
    revision: int


@dataclass(frozen=True, slots=True)
class InferResult:
    """What became of one body of `infer_many`.

    Attributes:
        index: Which body it was, from 0.
        items: The items of the answer; None where the call failed.
        error: Why it failed; None where it did not.
    """

    index: int
    items: list[Any] | None
    error: Exception | None = None

    def unwrap(self) -> list[Any]:
        """Return the items, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.items if self.items is not None else []


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model, as the registry keeps it.

    Attributes:
        path: Its path in the model's folder.
        size: Its length in bytes.
        sha256: The SHA-256 sum in hex; None while nobody has said it.
        md5: The MD5 sum in base64; None where it is not known.
        state: "Missing", "Stored", or "Damaged" where it must be uploaded again.
    """

    path: str
    size: int
    sha256: str | None
    md5: str | None
    state: str


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """How far an upload or a download is.

    Attributes:
        activity: "read" (the user's files, for their digests), "upload" or "download".
        done: How many bytes are done, those that were there before included.
        total: How many there are.
        path: The file that moves.
    """

    activity: str
    done: int
    total: int
    path: str
