"""`podbay account`."""

from __future__ import annotations

import click

from podbay.cli.invocation import Invocation, json_option, pass_invocation
from podbay.cli.lazy import Noun
from podbay.cli.output import table, write_json
from podbay.cli.quotas import quota

__all__ = ["account"]


@click.group(cls=Noun)
def account() -> None:
    """Accounts, which own resources."""


account.add_command(quota)


@account.command()
@click.argument("account_id", metavar="ID")
@json_option
@pass_invocation
def create(invocation: Invocation, account_id: str) -> None:
    """Make an account."""
    with invocation.client() as client:
        made = client.accounts.create(account_id)
    if invocation.json:
        write_json(made)
    else:
        click.echo(made.id)
        click.echo(f"a token for it: podbay token create --account {made.id}", err=True)


@account.command("list")
@json_option
@pass_invocation
def list_accounts(invocation: Invocation) -> None:
    """List the accounts that the token may see."""
    with invocation.client() as client:
        accounts = list(client.accounts.list())
    if invocation.json:
        write_json(accounts)
    else:
        table(("ID",), [(item.id,) for item in accounts], empty="no accounts")
