"""`podbay infer`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from podbay.cli.arguments import read_body
from podbay.cli.durations import duration_option
from podbay.cli.invocation import Invocation, json_option, pass_invocation
from podbay.cli.lazy import LoneCommand
from podbay.cli.output import write_json

if TYPE_CHECKING:
    from podbay import Client

__all__ = ["infer"]


@click.command(cls=LoneCommand)
@click.argument("session_id", metavar="SESSION_ID")
@click.argument("body", required=False, metavar="[BODY|@FILE|-]")
@click.option("--stream", is_flag=True, help="Write each item as it comes, one a line.")
@click.option("--endpoint", help="Another path than the interface's.")
@click.option("--raw", is_flag=True, help="Send and receive the service's own form: no adapters.")
@click.option("--wait", is_flag=True, help="Wait until the session takes calls.")
@click.option(
    "--timeout",
    default="60s",
    show_default=True,
    callback=duration_option,
    metavar="DURATION",
    help="How long the call may take, the wait included.",
)
@json_option
@pass_invocation
def infer(
    invocation: Invocation,
    session_id: str,
    body: str | None,
    stream: bool,
    endpoint: str | None,
    raw: bool,
    wait: bool,
    timeout: float,
) -> None:
    """Send a call to a session, and write the items of its answer.

    The body is JSON, @FILE, or - for standard input, as in
    podbay infer ID '{"text": "Open the pod bay doors, Hal!"}'
    """
    value = read_body(body)
    with (
        invocation.client() as client,
        _session_client(client, session_id, endpoint, raw=raw) as calls,
    ):
        if stream:
            if wait:
                calls.wait_ready(timeout=timeout)
            for item in calls.stream(value, timeout=timeout):
                click.echo(json.dumps(item, ensure_ascii=False))
            return
        items = calls.infer(value, timeout=timeout, wait=wait)
    if invocation.json:
        write_json(items)
        return
    for item in items:
        write_json(item)


def _session_client(client: Client, session_id: str, endpoint: str | None, *, raw: bool) -> Any:
    found = client.inferencesessions.get(session_id)
    interface = found.inferenceService.interface
    return client.inferencesessions.client(
        session_id,
        client.inferencesessions.token(session_id),
        interface=None if raw else interface,
        endpoint=endpoint or (interface.endpoint if raw else None),
    )
