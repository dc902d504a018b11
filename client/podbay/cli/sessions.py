"""`podbay session`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from podbay.cli.arguments import filter_options
from podbay.cli.durations import duration_option, expiry_option
from podbay.cli.entities import (
    change_labels,
    delete_all,
    query_arguments,
    show_entity,
    show_result,
)
from podbay.cli.invocation import Invocation, account_of, json_option, pass_invocation
from podbay.cli.lazy import Noun
from podbay.cli.output import age, entity_json, progress, table, write_json
from podbay.cli.session_logs import logs
from podbay.cli.session_placement import gpu_options, read_accelerator, show_placement
from podbay.cli.session_status import explain_status, progress_text, show_status

if TYPE_CHECKING:
    from podbay import Client
    from podbay.types import RevokedTokens, SessionStatus

__all__ = ["session"]

_COLLECTION = "inferencesessions"
_ID = click.argument("session_id", metavar="ID")


@click.group(cls=Noun)
def session() -> None:
    """Inference sessions: running services."""


session.add_command(logs)

_wait_timeout = click.option(
    "--timeout",
    callback=duration_option,
    metavar="DURATION",
    help="How long to wait for readiness, as 90s; without end unless said.",
)


@session.command()
@click.argument("service_id")
@click.option("--replicas", type=click.IntRange(min=1), help="How many replicas; 1 unless said.")
@click.option(
    "--expires",
    callback=expiry_option,
    metavar="1h|TIME",
    help="When it ends by itself: a duration as 1h30m, or a time in RFC 3339.",
)
@gpu_options
@click.option("--account", help="The account; that of the token unless said.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Create nothing; say node by node whether its replicas would find room.",
)
@click.option("--wait", is_flag=True, help="Return when it takes calls, or cannot.")
@_wait_timeout
@json_option
@pass_invocation
def create(
    invocation: Invocation,
    /,
    *,
    service_id: str,
    account: str | None,
    dry_run: bool,
    wait: bool,
    timeout: float | None,
    **options: Any,
) -> None:
    """Start a session of a service.

    With --json the answer holds a session token; `podbay session token` makes further ones.
    """
    from podbay.schema.requests import InferenceSessionCreateRequest  # noqa: PLC0415 # takes long

    given = {
        "replicas": options["replicas"],
        "expires": options["expires"],
        "useSpotPods": options["spot"],
        "accelerator": read_accelerator(
            options["gpus"], options["gpu_types"], options["gpu_memory"]
        ),
    }
    with invocation.client() as client:
        request = InferenceSessionCreateRequest(
            account=account_of(client, account),
            inferenceService=service_id,
            **{key: value for key, value in given.items() if value is not None},
        )
        if dry_run:
            show_placement(invocation, client.inferencesessions.explain_placement(request))
            return
        made = client.inferencesessions.create(request)
        name = made.inferencesession.id
        if not invocation.json:
            show_entity(invocation, made.inferencesession, _pairs(made.inferencesession))
        if wait:
            _wait(invocation, client, name, timeout)
            if not invocation.json:
                click.echo(f'call it: podbay infer {name} \'{{"text": "hello"}}\'', err=True)
    if invocation.json:
        write_json(made)


def _pairs(found: Any) -> list[tuple[str, object]]:
    expires = f"{found.expires:%Y-%m-%d %H:%M:%S} UTC" if found.expires else None
    return [
        ("service", f"{found.inferenceService.name} ({found.inferenceService.id})"),
        ("replicas", found.replicas),
        ("expires", expires),
    ]


def _wait(
    invocation: Invocation, client: Client, session_id: str, timeout: float | None
) -> SessionStatus:
    with progress(f"session {session_id}: waits", quiet=invocation.json) as shown:
        client.inferencesessions.wait_ready(
            session_id, timeout=timeout, progress=lambda status: shown.update(progress_text(status))
        )
    return client.inferencesessions.status(session_id)


@session.command("list")
@filter_options(named=False)
@click.option("--service", "inferenceService", help="Only those of this service.")
@click.option("--service-name", "inferenceServiceName", help="Only those of services of this name.")
@click.option("--model", help="Only those of this model.")
@json_option
@pass_invocation
def list_sessions(invocation: Invocation, /, **options: Any) -> None:
    """List sessions."""
    with invocation.client() as client:
        sessions = client.inferencesessions.query(**query_arguments(options))
    if invocation.json:
        write_json(sessions)
        return
    table(
        ("ID", "SERVICE", "STATUS", "REASON", "REPLICAS", "ACCOUNT", "AGE", "EXPIRES"),
        [
            (
                s.id,
                s.inferenceService.name,
                s.status,
                s.reason,
                s.replicas,
                s.account,
                age(s.creationTime),
                f"{s.expires:%Y-%m-%d %H:%M}" if s.expires else "",
            )
            for s in sessions
        ],
        empty="no sessions",
    )


@session.command()
@_ID
@json_option
@pass_invocation
def get(invocation: Invocation, session_id: str) -> None:
    """Show a session."""
    with invocation.client() as client:
        found = client.inferencesessions.get(session_id)
    show_entity(invocation, found, _pairs(found))


@session.command()
@_ID
@json_option
@pass_invocation
def status(invocation: Invocation, session_id: str) -> None:
    """Show whether a session takes calls, and its replicas."""
    with invocation.client() as client:
        show_status(invocation, client.inferencesessions.status(session_id))


@session.command()
@_ID
@json_option
@pass_invocation
def explain(invocation: Invocation, session_id: str) -> None:
    """Say why a session stands where it stands, with the evidence.

    Where replicas wait for room: what they need, and node by node what is free.
    """
    with invocation.client() as client:
        found = client.inferencesessions.status(session_id)
        waits = any(replica.phase == "Pending" for replica in found.replicas)
        placement = client.inferencesessions.explain_placement(session_id) if waits else None
    explain_status(invocation, found, placement)


@session.command()
@_ID
@_wait_timeout
@json_option
@pass_invocation
def wait(invocation: Invocation, session_id: str, timeout: float | None) -> None:
    """Wait until a session takes calls, or cannot."""
    with invocation.client() as client:
        show_status(invocation, _wait(invocation, client, session_id, timeout))


@session.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@json_option
@pass_invocation
def terminate(invocation: Invocation, ids: tuple[str, ...]) -> None:
    """End sessions; their replicas finish what they have."""
    with invocation.client() as client:
        for name in ids:
            show_result(invocation, name, client.inferencesessions.terminate(name))


@session.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@json_option
@pass_invocation
def delete(invocation: Invocation, ids: tuple[str, ...]) -> None:
    """End sessions and mark them as deleted."""
    delete_all(invocation, _COLLECTION, ids)


@session.command()
@_ID
@click.argument("changes", metavar="KEY=VALUE|KEY-...", nargs=-1, required=True)
@json_option
@pass_invocation
def label(invocation: Invocation, session_id: str, changes: tuple[str, ...]) -> None:
    """Set labels (KEY=VALUE) and remove them (KEY-)."""
    change_labels(invocation, _COLLECTION, session_id, changes)


@session.command()
@_ID
@click.option(
    "--expires",
    callback=expiry_option,
    metavar="1h|TIME",
    help="When it ends: not later than the session; 24 hours unless said.",
)
@click.option("--revoke-others", is_flag=True, help="First end all tokens made so far.")
@json_option
@pass_invocation
def token(
    invocation: Invocation, session_id: str, expires: datetime | None, revoke_others: bool
) -> None:
    """Make a token for the calls of a session, and write it to stdout."""
    with invocation.client() as client:
        if revoke_others:
            _warn(client.inferencesessions.revoke_tokens(session_id))
        made = client.inferencesessions.token(session_id, expires=expires)
    if invocation.json:
        write_json({"token": made})
    else:
        click.echo(made)


@session.command("revoke-tokens")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@json_option
@pass_invocation
def revoke_tokens(invocation: Invocation, ids: tuple[str, ...]) -> None:
    """End all tokens of sessions that were made so far, and the calls that run by them."""
    with invocation.client() as client:
        for name in ids:
            revoked = client.inferencesessions.revoke_tokens(name)
            if invocation.json:
                write_json({"session": name, **entity_json(revoked)})
            else:
                click.echo(f"{name}  revoked  epoch {revoked.epoch}")
                _warn(revoked)


def _warn(revoked: RevokedTokens) -> None:
    if not revoked.acknowledged:
        click.echo(
            "a router has not acknowledged it yet, and refuses the tokens as soon as it hears of "
            "it",
            err=True,
        )
