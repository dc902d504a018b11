"""Where a session and its replicas stand, in words and tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from podbay.cli.invocation import Invocation
from podbay.cli.output import age, details, entity_json, table, write_json
from podbay.cli.session_placement import placement_lines

if TYPE_CHECKING:
    from podbay.types import Placement, SessionStatus

__all__ = ["explain_status", "progress_text", "show_status"]


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


def explain_status(
    invocation: Invocation, status: SessionStatus, placement: Placement | None = None
) -> None:
    """Write why a session stands where it stands: as JSON, or in words.

    Args:
        invocation: The invocation.
        status: The session's status.
        placement: Where its replicas go; None where all have a place.
    """
    if invocation.json:
        write_json({**entity_json(status), "placement": placement and entity_json(placement)})
        return
    from podbay._core.explaining import explanation  # noqa: PLC0415 # other commands do without

    for line in explanation(status, datetime.now(UTC)):
        click.echo(line)
    if placement is not None:
        click.echo()
        for line in placement_lines(placement):
            click.echo(line)
