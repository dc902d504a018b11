"""Where a session and its replicas stand, in words and tables."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from podbay.cli.invocation import Invocation
from podbay.cli.output import age, details, table, write_json

if TYPE_CHECKING:
    from podbay.types import ReplicaStatus, SessionStatus

__all__ = ["explain_status", "explanation", "progress_text", "show_status"]


def progress_text(status: SessionStatus) -> str:
    """Say in one line how far a session is."""
    phases: dict[str, int] = {}
    for replica in status.replicas:
        phases[replica.phase] = phases.get(replica.phase, 0) + 1
    parts = ", ".join(f"{count} {phase.lower()}" for phase, count in phases.items())
    text = f"{status.ready_replicas} of {status.desired_replicas} replicas ready"
    if parts and status.ready_replicas < status.desired_replicas:
        text += f" ({parts})"
    return f"session {status.session_id}: {text}"


def show_status(invocation: Invocation, status: SessionStatus) -> None:
    """Write a status: as JSON, or in words with a table of the replicas."""
    if invocation.json:
        write_json(status)
        return
    details(
        (
            ("session", status.session_id),
            ("status", status.status),
            ("why", ": ".join(text for text in (status.reason, status.message) if text)),
            ("ready", "yes" if status.ready else "no"),
            ("replicas", f"{status.ready_replicas} of {status.desired_replicas} ready"),
            ("explanation", status.explanation),
        )
    )
    if status.replicas:
        click.echo()
        table(
            ("ID", "INDEX", "TRY", "PHASE", "FOR", "NODE", "DRIVER", "ADDRESS", "PROCESS", "WHY"),
            [
                (
                    r.id,
                    r.index,
                    r.attempt,
                    r.phase,
                    age(r.transition_time),
                    r.node,
                    r.driver,
                    r.address,
                    r.process_id,
                    r.reason,
                )
                for r in status.replicas
            ],
        )


def explain_status(invocation: Invocation, status: SessionStatus) -> None:
    """Write why a session stands where it stands: as JSON, or in words."""
    if invocation.json:
        write_json(status)
        return
    for line in explanation(status, datetime.now(UTC)):
        click.echo(line)


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
        yield from _replica(replica, now)


def _replica(replica: ReplicaStatus, now: datetime) -> Iterator[str]:
    place = f" on {replica.node}" if replica.node else ""
    yield f"replica {replica.index}, try {replica.attempt} ({replica.id}){place}: {replica.phase}"
    if replica.reason:
        yield f"  {replica.reason}"
    yield from (f"  {line}" for line in replica.message.splitlines())
    if replica.exit_code is not None:
        signal = f" (signal {replica.exit_code - 128})" if replica.exit_code > 128 else ""
        yield f"  exit code {replica.exit_code}{signal}"
    if replica.retry_time is not None:
        wait = (replica.retry_time - now).total_seconds()
        yield f"  tried again in {max(0.0, wait):.1f} s"
    if replica.log_tail:
        yield "  the last lines of its log:"
        yield from (f"    | {line}" for line in replica.log_tail)
