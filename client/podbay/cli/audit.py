"""`podbay audit`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from podbay.cli.durations import parse_duration
from podbay.cli.invocation import Invocation, json_option, pass_invocation
from podbay.cli.lazy import Noun
from podbay.cli.output import table, write_json

if TYPE_CHECKING:
    from podbay.types import AuditRecord

__all__ = ["audit"]


def _past(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> datetime | None:
    """Read a duration before now, or a time."""
    if text is None:
        return None
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        pass
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise click.BadParameter(
            f"{text!r} is neither a duration before now as 2h, nor a time as 2030-01-01T00:00:00Z"
        )
    return when


@click.group(cls=Noun)
def audit() -> None:
    """The audit logs: who did what, from where, and what came of it."""


@audit.command("list")
@click.option(
    "--service",
    type=click.Choice(["registry", "session-manager"]),
    help="Only the log of this service.",
)
@click.option("--account", help="Only what was done to resources of this account.")
@click.option("--resource", metavar="KIND", help="Only this kind of resource, as models.")
@click.option("--id", "resource_id", help="Only the resource with this id.")
@click.option("--actor", help="Only what this account, or the token with this id, did.")
@click.option("--method", help="Only this method, as CreateModel.")
@click.option("--since", callback=_past, metavar="2h|TIME", help="Only what came later.")
@click.option("--until", callback=_past, metavar="2h|TIME", help="Only what came before.")
@click.option("--failed/--done", default=None, help="Only what failed, or only what did not.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="How many entries at most.",
)
@json_option
@pass_invocation
def list_records(
    invocation: Invocation,
    service: str | None,
    account: str | None,
    resource: str | None,
    resource_id: str | None,
    actor: str | None,
    method: str | None,
    since: datetime | None,
    until: datetime | None,
    failed: bool | None,
    limit: int,
) -> None:
    """List the entries that the token may see, the newest first."""
    with invocation.client() as client:
        records = list(
            client.audit.list(
                service=service,
                account=account,
                resource=resource,
                resource_id=resource_id,
                actor=actor,
                method=method,
                since=since,
                until=until,
                failed=failed,
                limit=limit,
            )
        )
    if invocation.json:
        write_json(records)
        return
    table(
        ("TIME", "ACTOR", "FROM", "METHOD", "ACCOUNT", "ID", "OUTCOME"),
        [
            (
                f"{each.time:%Y-%m-%d %H:%M:%S}",
                _actor(each),
                each.peer,
                each.method,
                each.account,
                each.resource_id,
                _outcome(each),
            )
            for each in records
        ],
        empty="no entries",
    )


def _actor(record: AuditRecord) -> str:
    if record.actor_account:
        return f"{record.actor_account}/{record.actor_token}"
    return record.actor_token or "-"


def _outcome(record: AuditRecord) -> str:
    outcome = record.reason or "OK"
    if record.code and record.reason is None:
        outcome = "refused"
    details = ", ".join(f"{key} {value}" for key, value in record.details.items())
    many = f" x{record.count}" if record.count > 1 else ""
    return f"{outcome}{many}{f' ({details})' if details else ''}"
