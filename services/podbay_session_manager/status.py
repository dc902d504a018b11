"""What people are told of sessions and replicas. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from google.protobuf import timestamp_pb2

from podbay.v1 import common_pb2, inference_session_pb2
from podbay_session_manager.call_failures import FailedCall
from podbay_session_manager.machine import ReplicaPhase
from podbay_session_manager.records import Reason, ReplicaRecord, SessionRecord
from podbay_session_manager.routes import reason_number
from podbay_session_manager.texts import explanation, whole_message

__all__ = ["replica_message", "session_status"]

_TAIL_LINES: Final = 50


def session_status(
    session: SessionRecord,
    replicas: Iterable[ReplicaRecord],
    *,
    is_ready: Callable[[str], bool],
    revision: int,
    failing: Callable[[str], str] = lambda _: "",
    doing: Callable[[ReplicaRecord], str] = lambda _: "",
    call_failures: Sequence[FailedCall] = (),
) -> inference_session_pb2.InferenceSessionStatus:
    """Return the status of a session.

    Args:
        session: The session.
        replicas: Its replicas, those that ended too.
        is_ready: Whether a replica that is READY takes calls at every router.
        revision: The revision that this shows.
        failing: How the calls of a replica fail although it is ready; "" where they do not.
        doing: How far the start of a replica is; "" where that is not known.
        call_failures: Which of its calls failed lately.
    """
    known = list(replicas)
    # While one moves to another node, two of an index may be ready.
    ready = len({r.index for r in known if r.phase is ReplicaPhase.READY and is_ready(r.id)})
    status = common_pb2.Status(status=session.status)
    if session.status_reason is not None:
        status.reason = session.status_reason
    message = whole_message(session)
    if message:
        status.message = message
    return inference_session_pb2.InferenceSessionStatus(
        session_id=session.id,
        status=status,
        ready=ready > 0,
        ready_replicas=ready,
        desired_replicas=session.desired,
        replicas=[
            replica_message(replica, failing(replica.id), doing(replica))
            for replica in _shown(known)
        ],
        explanation=explanation(session, known, doing),
        revision=revision,
        call_failures=[
            inference_session_pb2.CallFailure(
                reason=one.reason,
                count=one.count,
                first_time=_timestamp(one.first),
                last_time=_timestamp(one.last),
                message=one.message,
                metadata=one.metadata,
            )
            for one in call_failures
        ],
    )


def _shown(replicas: Sequence[ReplicaRecord]) -> list[ReplicaRecord]:
    """Return those that live, and the last that ended at each index."""
    last: dict[int, ReplicaRecord] = {}
    for replica in replicas:
        known = last.get(replica.index)
        if replica.phase.ended and (known is None or replica.attempt > known.attempt):
            last[replica.index] = replica
    live = [replica for replica in replicas if not replica.phase.ended]
    return sorted([*live, *last.values()], key=lambda r: (r.index, r.attempt))


def replica_message(
    replica: ReplicaRecord, failing: str = "", doing: str = ""
) -> inference_session_pb2.Replica:
    """Return a replica as people see it.

    Args:
        replica: The replica.
        failing: How its calls fail, if they do.
        doing: How far its start is, if it is under way and takes long.
    """
    message = inference_session_pb2.Replica(
        id=replica.id,
        session_id=replica.session_id,
        index=replica.index,
        attempt=replica.attempt,
        node=replica.node,
        driver=replica.driver,
        phase=inference_session_pb2.ReplicaPhase.Value(f"REPLICA_PHASE_{replica.phase.value}"),
        reason=reason_number(replica.reason),
        message=replica.message,
        exit_code=replica.exit_code,
        log_tail=replica.log_tail[-_TAIL_LINES:],
        address=replica.address,
        process_id=replica.pid,
        creation_time=_timestamp(replica.created_at),
        transition_time=_timestamp(replica.transition_at),
        gpus=replica.gpus,
        failures=replica.failures,
        out_of_memory=replica.reason is Reason.OUT_OF_MEMORY,
    )
    if doing:
        message.message = doing
    if failing and replica.phase is ReplicaPhase.READY:
        message.reason = reason_number(Reason.REPLICA_FAILING)
        message.message = failing
    if replica.ready_at is not None:
        message.ready_time.CopyFrom(_timestamp(replica.ready_at))
    if replica.retry_at is not None:
        message.retry_time.CopyFrom(_timestamp(replica.retry_at))
    return message


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromDatetime(datetime.fromtimestamp(seconds, tz=UTC))
    return timestamp
