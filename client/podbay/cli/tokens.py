"""`podbay token`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from podbay.cli.durations import expiry_option
from podbay.cli.invocation import Invocation, account_of, json_option, pass_invocation
from podbay.cli.lazy import Noun
from podbay.cli.output import age, details, table, write_json

if TYPE_CHECKING:
    from podbay.types import Grant

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
    metavar="RESOURCES:FUNCTIONS[:ACCOUNTS[:IDS]]",
    help="What it may do, as 'models,inferenceservices:get,query' on its own account, "
    "'*:*:*' on all accounts, or 'models:get::ID' on single ones; everything on its own account "
    "unless said. May be given more than once.",
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
            parts = [tuple(filter(None, part.split(","))) for part in text.split(":")]
            if not 2 <= len(parts) <= 4 or not parts[0] or not parts[1]:
                raise click.BadParameter(
                    f"--grant takes RESOURCES:FUNCTIONS[:ACCOUNTS[:IDS]], not {text!r}"
                )
            accounts = parts[2] if len(parts) > 2 else (owner,)
            wanted.append(Grant(parts[0], parts[1], accounts, parts[3] if len(parts) > 3 else ()))
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
        ("ID", "ACCOUNT", "NAME", "GRANTS", "AGE", "EXPIRES", "REVOKED"),
        [
            (
                t.id,
                t.account,
                t.name,
                " ".join(_written(grant) for grant in t.grants),
                age(t.creation_time),
                f"{t.expires:%Y-%m-%d %H:%M}" if t.expires else "never",
                "yes" if t.revoked else "",
            )
            for t in tokens
        ],
        empty="no tokens",
    )


def _written(grant: Grant) -> str:
    """Return a grant in the form that `--grant` takes."""
    parts = [grant.resources, grant.functions, grant.accounts, grant.entities]
    return ":".join(",".join(part) for part in parts).rstrip(":")


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
