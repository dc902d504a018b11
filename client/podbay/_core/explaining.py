"""Why a session stands where it stands, in words. Pure: the time is an argument."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from podbay.errors import error_for
from podbay.schema.platform import is_status_terminal
from podbay.types import CallFailure, ReplicaStatus, SessionExplanation, SessionStatus

__all__ = ["explained", "explanation"]


def explained(status: SessionStatus, now: datetime) -> SessionExplanation:
    """Return the explanation of a status; see `explanation`."""
    return SessionExplanation(status, "\n".join(explanation(status, now)))


def explanation(status: SessionStatus, now: datetime) -> Iterator[str]:
    """Return the lines that explain a status.

    Args:
        status: The status.
        now: The time that waits are counted from.
    """
    why = ": ".join(text for text in (status.reason, status.message) if text)
    takes = "takes calls" if status.ready else "takes no calls"
    yield (
        f"session {status.session_id} is {status.status} and {takes}: {status.ready_replicas} of "
        f"{status.desired_replicas} replicas are ready"
    )
    if why:
        yield f"  {why}"
    if status.explanation and status.explanation != status.message:
        yield from (f"  {line}" for line in status.explanation.splitlines())
    for replica in status.replicas:
        yield ""
        yield from _replica(replica, now, tried_again=not is_status_terminal(status.status))
    if status.call_failures:
        yield ""
        yield "calls that failed lately:"
    for failure in status.call_failures:
        yield from _call_failure(failure, now)


def _call_failure(failure: CallFailure, now: datetime) -> Iterator[str]:
    yield f"  {failure.reason}"
    calls = "1 call" if failure.count == 1 else f"{failure.count} calls, the last one"
    if failure.last_time is None:
        yield f"    {calls}"
    else:
        yield f"    {calls} {max(0.0, (now - failure.last_time).total_seconds()):.1f} s ago"
    # In the words of the error that the caller has.
    error = error_for(failure.reason, failure.message, metadata=failure.metadata)
    yield from (f"    {line}" for line in error.report().splitlines())


def _replica(replica: ReplicaStatus, now: datetime, *, tried_again: bool) -> Iterator[str]:
    place = f" on {replica.node}" if replica.node else ""
    yield f"replica {replica.index}, try {replica.attempt} ({replica.id}){place}: {replica.phase}"
    if replica.reason:
        yield f"  {replica.reason}"
    yield from (f"  {line}" for line in replica.message.splitlines())
    if replica.gpus:
        yield f"  GPUs {', '.join(replica.gpus)}"
    if replica.exit_code is not None:
        signal = f" (signal {replica.exit_code - 128})" if replica.exit_code > 128 else ""
        yield f"  exit code {replica.exit_code}{signal}"
    if replica.retry_time is not None and tried_again:
        wait = (replica.retry_time - now).total_seconds()
        # One that is past is of a try that has begun.
        if wait > 0:
            yield f"  tried again in {wait:.1f} s"
    if replica.log_tail:
        yield "  the last lines of its log:"
        yield from (f"    | {line}" for line in replica.log_tail)
