"""`podbay` itself: its options and the list of its commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from podbay.cli.invocation import Invocation
from podbay.cli.lazy import LazyGroup

__all__ = ["cli", "main"]

_COMMANDS = {
    "up": ("podbay.cli.up:up", "Start the three services on this machine"),
    "status": ("podbay.cli.up_status:status", "Show whether `podbay up` runs and is healthy"),
    "down": ("podbay.cli.up_status:down", "Stop a running `podbay up`"),
    "backup": ("podbay.cli.backups:backup", "Save what `podbay up` keeps, while it runs"),
    "restore": ("podbay.cli.backups:restore", "Make a data folder out of a backup"),
    "demo": ("podbay.cli.demo:demo", "Run the platform's main job on this machine, to see it"),
    "service": ("podbay.cli.services:service", "Inference services: packaged systems"),
    "session": ("podbay.cli.sessions:session", "Inference sessions: running services"),
    "infer": ("podbay.cli.infer:infer", "Send a call to a session"),
    "logs": ("podbay.cli.session_logs:logs", "Show what the replicas of a session wrote"),
    "model": ("podbay.cli.models:model", "Models: the raw form of systems"),
    "node": ("podbay.cli.nodes:node", "Nodes: the machines that run replicas"),
    "key": ("podbay.cli.keys:key", "Keys that sign session tokens"),
    "account": ("podbay.cli.accounts:account", "Accounts and their quotas"),
    "audit": ("podbay.cli.audit:audit", "The audit logs: who did what, and what came of it"),
    "token": ("podbay.cli.tokens:token", "API tokens"),
    "certs": ("podbay.cli.certs:certs", "Certificates for TLS: an authority and what it issues"),
}


def _version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version  # noqa: PLC0415 # only for this option

        click.echo(f"podbay {version('podbay')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 1 error, 2 wrong usage, 3 not found, 4 not allowed, 5 not available or "
    "out of time, 130 interrupted.",
)
@click.option(
    "--endpoint",
    envvar="PODBAY_API_ENDPOINT",
    metavar="HOST:PORT",
    help="The registry. [env PODBAY_API_ENDPOINT; else that of `podbay up` on this machine]",
)
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Speak TLS, and believe services that this authority vouches for. [env "
    "PODBAY_API_CA_FILE; else as `podbay up` on this machine]",
)
@click.option(
    "--client-cert",
    nargs=2,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="CERT KEY",
    help="A certificate to show and its key, where services demand one. [env "
    "PODBAY_API_CLIENT_CERT_FILE, PODBAY_API_CLIENT_KEY_FILE]",
)
@click.option(
    "--server-name",
    metavar="NAME",
    help="The name that services' certificates must have, as behind a tunnel. [env "
    "PODBAY_API_SERVER_NAME]",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Speak plain text, token included, also with other machines. [env PODBAY_API_INSECURE]",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file that holds the API token. [env PODBAY_API_TOKEN holds the token itself; else "
    "the admin token of `podbay up` on this machine]",
)
@click.option(
    "--data-dir",
    envvar="PODBAY_DATA_DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="The data folder of `podbay up`. [env PODBAY_DATA_DIR; default ~/.podbay]",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(
    ctx: click.Context,
    *,
    endpoint: str | None,
    token_file: Path | None,
    data_dir: Path | None,
    ca_file: Path | None,
    client_cert: tuple[Path, Path] | None,
    server_name: str | None,
    insecure: bool,
) -> None:
    """Run packaged AI systems as sessions, and call them."""
    invocation = ctx.ensure_object(Invocation)
    invocation.endpoint = endpoint
    invocation.token_file = token_file
    invocation.data_dir = data_dir
    cert, key = client_cert or (None, None)
    given = {
        "ca_file": ca_file,
        "client_cert_file": cert,
        "client_key_file": key,
        "server_name": server_name,
        "insecure": insecure or None,
    }
    invocation.tls = {name: value for name, value in given.items() if value is not None}


def main() -> None:
    """Run `podbay` with the arguments of this process, and exit."""
    try:
        cli(prog_name="podbay")
    finally:
        _flush_quietly()


def _flush_quietly() -> None:
    """Write what is left, and say nothing where the reader is gone."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
