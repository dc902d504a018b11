"""`podbay logs`, also as `podbay session logs`."""

from __future__ import annotations

import json

import click

from podbay.cli.invocation import Invocation, json_option, pass_invocation
from podbay.cli.lazy import LoneCommand
from podbay.cli.output import entity_json

__all__ = ["logs"]


@click.command(cls=LoneCommand)
@click.argument("session_id", metavar="SESSION_ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until the session ends.")
@click.option("--tail", type=click.IntRange(min=0), help="Only the last lines of each replica.")
@click.option("--replica", help="Only this replica.")
@click.option("-t", "--timestamps", is_flag=True, help="Show when each line was written.")
@json_option
@pass_invocation
def logs(
    invocation: Invocation,
    session_id: str,
    follow: bool,
    tail: int | None,
    replica: str | None,
    timestamps: bool,
) -> None:
    """Show what the replicas of a session wrote, also those that are gone.

    With --json each line is an object.
    """
    with invocation.client() as client:
        for line in client.inferencesessions.logs(
            session_id, replica=replica, tail=tail, follow=follow
        ):
            if invocation.json:
                click.echo(json.dumps(entity_json(line), ensure_ascii=False))
                continue
            head = "" if replica else f"{line.replica_id[:8]} | "
            if timestamps:
                time = line.time.isoformat(timespec="milliseconds") if line.time else "time unknown"
                head = f"{time} {head}"
            click.echo(f"{head}{line.text}")
