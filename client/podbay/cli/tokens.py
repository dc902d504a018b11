"""`podbay token`."""

from __future__ import annotations

from datetime import datetime

import click

from podbay.cli.durations import expiry_option
from podbay.cli.invocation import Invocation, account_of, json_option, pass_invocation
from podbay.cli.lazy import Noun
from podbay.cli.output import age, details, table, write_json

__all__ = ["token"]


@click.group(cls=Noun)
def token() -> None:
    """API tokens, which act for an account."""


@token.command()
@click.option("--account", help="The account that it acts for; that of your token unless said.")
@click.option("--name", default="", help="What people call it.")
@click.option(
    "--expires",
    callback=expiry_option,
    metavar="1h|TIME",
    help="When it ends: a duration as 30d, or a time in RFC 3339; never unless said.",
)
@click.option(
    "--grant",
    "grants",
    multiple=True,
    metavar="RESOURCES:FUNCTIONS",
    help="What it may do, as models,nodes:get,query or '*:*'; everything on its account unless "
    "said. May be given more than once.",
)
@json_option
@pass_invocation
def create(
    invocation: Invocation,
    account: str | None,
    name: str,
    expires: datetime | None,
    grants: tuple[str, ...],
) -> None:
    """Make a token. Its secret goes to stdout, this once."""
    with invocation.client() as client:
        from podbay.types import Grant  # noqa: PLC0415 # takes long

        owner = account_of(client, account)
        wanted = []
        for text in grants:
            resources, sign, functions = text.partition(":")
            if not sign or not resources or not functions:
                raise click.BadParameter(f"--grant takes RESOURCES:FUNCTIONS, not {text!r}")
            wanted.append(
                Grant(tuple(resources.split(",")), tuple(functions.split(",")), (owner,), ("*",))
            )
        made = client.tokens.create(owner, name=name, grants=wanted, expires=expires)
    if invocation.json:
        write_json(made)
        return
    click.echo(made.secret)
    click.echo(
        f"token {made.token.id} of account {made.token.account}; the secret is not shown again",
        err=True,
    )


@token.command("list")
@click.option("--account", help="Only those of this account.")
@json_option
@pass_invocation
def list_tokens(invocation: Invocation, account: str | None) -> None:
    """List tokens, without their secrets."""
    with invocation.client() as client:
        tokens = list(client.tokens.list(account=account))
    if invocation.json:
        write_json(tokens)
        return
    table(
        ("ID", "ACCOUNT", "NAME", "AGE", "EXPIRES", "REVOKED"),
        [
            (
                t.id,
                t.account,
                t.name,
                age(t.creation_time),
                f"{t.expires:%Y-%m-%d %H:%M}" if t.expires else "never",
                "yes" if t.revoked else "",
            )
            for t in tokens
        ],
        empty="no tokens",
    )


@token.command()
@click.argument("token_id", metavar="ID")
@json_option
@pass_invocation
def revoke(invocation: Invocation, token_id: str) -> None:
    """End a token at once."""
    with invocation.client() as client:
        ended = client.tokens.revoke(token_id)
    if invocation.json:
        write_json(ended)
    else:
        details((("id", ended.id), ("account", ended.account), ("revoked", "yes")))
