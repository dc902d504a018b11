"""`podbay status` and `podbay down`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from podbay.cli.durations import duration_option
from podbay.cli.failures import EXIT_UNAVAILABLE
from podbay.cli.invocation import Invocation, data_dir_option, json_option
from podbay.cli.lazy import LoneCommand
from podbay.cli.output import age, progress, table, write_json

if TYPE_CHECKING:
    from podbay.local.state import ServiceRecord, UpRecord

__all__ = ["down", "status"]

_LIVE = ("Created", "Admitted")


@click.command(cls=LoneCommand)
@data_dir_option
@json_option
@click.pass_context
def status(ctx: click.Context) -> None:
    """Show whether `podbay up` runs on this machine and is healthy.

    The exit code is 0 only where all services are healthy.
    """
    invocation = ctx.ensure_object(Invocation)
    data = invocation.data()
    record = data.running()
    if record is None:
        _show_not_running(invocation, str(data.path), stale=data.record_file.exists())
        ctx.exit(EXIT_UNAVAILABLE)
    states = [_state(service, record.ca_file) for service in record.services]
    healthy = record.state == "running" and all(state == "healthy" for state in states)
    sessions = _count_sessions(invocation, record) if healthy else None
    if invocation.json:
        body = record.model_dump(mode="json", by_alias=True, exclude_none=True)
        for service, state in zip(body["services"], states, strict=True):
            service["state"] = state
        write_json({**body, "healthy": healthy, "sessions": sessions})
    else:
        _show(record, states, sessions)
    ctx.exit(0 if healthy else EXIT_UNAVAILABLE)


def _show_not_running(invocation: Invocation, path: str, *, stale: bool) -> None:
    if invocation.json:
        write_json({"state": "stopped", "healthy": False})
        return
    left = "; the one that wrote its up.json is gone" if stale else ""
    click.echo(f"no `podbay up` runs on {path}{left}. Start one with `podbay up`")


def _state(service: ServiceRecord, ca_file: Path | None) -> str:
    """Say where a service stands, as its health answers rather than as it was written down."""
    from podbay.local.health import is_serving  # noqa: PLC0415 # takes long

    identity = service.identity()
    if identity is None or not identity.is_running():
        return service.state if service.state != "running" else "ended"
    if is_serving(service.endpoint, timeout=2.0, ca_file=ca_file):
        return "healthy"
    return service.state if service.state != "running" else "unhealthy"


def _count_sessions(invocation: Invocation, record: UpRecord) -> int | None:
    """Return how many sessions live; None where that cannot be found out."""
    from podbay.errors import PodbayError  # noqa: PLC0415 # takes long

    # Of this `podbay up`, whatever else the environment names.
    own = Invocation(
        endpoint=record.service("registry").endpoint,
        token_file=record.admin_token_file,
        data_dir=invocation.data_dir,
        tls=record.connection(),
        connect=invocation.connect,
    )
    try:
        with own.client() as client:
            return sum(len(client.inferencesessions.query(status=name)) for name in _LIVE)
    except (PodbayError, click.UsageError):
        return None


def _show(record: UpRecord, states: list[str], sessions: int | None) -> None:
    table(
        ("SERVICE", "STATE", "PROCESS", "ENDPOINT", "UPTIME", "RESTARTS"),
        [
            (s.name, state, s.pid, s.endpoint, age(s.started), s.restarts)
            for s, state in zip(record.services, states, strict=True)
        ],
    )
    where = "in the background" if record.detached else "in a terminal"
    click.echo(
        f"podbay up: {record.state}, process {record.pid} {where}, for {age(record.started)}"
    )
    if sessions is not None:
        click.echo(f"sessions: {sessions}")
    click.echo(f"admin token: {record.admin_token_file}")


@click.command(cls=LoneCommand)
@data_dir_option
@click.option(
    "--timeout",
    default="60s",
    show_default=True,
    callback=duration_option,
    metavar="DURATION",
    help="After this long everything is killed.",
)
@json_option
@click.pass_context
def down(ctx: click.Context, timeout: float) -> None:
    """Stop a `podbay up`, in the background or in another terminal."""
    from podbay.local.installation import stop_installation  # noqa: PLC0415 # takes long

    invocation = ctx.ensure_object(Invocation)
    data = invocation.data()
    record = data.read_record()
    if record is None:
        _tell(invocation, {"stopped": False}, f"no `podbay up` runs on {data.path}")
        return
    running = record.identity().is_running()
    with progress(f"podbay up, process {record.pid}, stops", quiet=not running):
        leftover = stop_installation(data, record, timeout=timeout)
    killed = ", ".join(map(str, leftover.killed))
    text = "stopped" if running else "it had ended already; what it left was cleared"
    if killed:
        text += f"; these processes had to be killed: {killed}"
    _tell(invocation, {"stopped": running, "killed": list(leftover.killed)}, text)
    if leftover.remaining:
        click.echo(f"cannot be killed: {', '.join(map(str, leftover.remaining))}", err=True)
        ctx.exit(1)


def _tell(invocation: Invocation, body: dict[str, object], text: str) -> None:
    if invocation.json:
        write_json(body)
    else:
        click.echo(text)
