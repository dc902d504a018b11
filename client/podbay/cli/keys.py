"""`podbay key`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from podbay.cli.invocation import Invocation, json_option, pass_invocation
from podbay.cli.lazy import Noun
from podbay.cli.output import age, table, write_json

if TYPE_CHECKING:
    from podbay.types import SigningKeyInfo

__all__ = ["key"]


@click.group(cls=Noun)
def key() -> None:
    """Keys that sign and verify session tokens."""


def _show(invocation: Invocation, keys: list[SigningKeyInfo]) -> None:
    if invocation.json:
        write_json(keys)
        return
    table(
        ("ID", "SIGNS", "AGE", "VERIFIES UNTIL"),
        [
            (
                found.kid,
                "yes" if found.signing else "no",
                age(found.creation_time),
                f"{found.verifies_until:%Y-%m-%d %H:%M}" if found.verifies_until else "",
            )
            for found in keys
        ],
        empty="no keys",
    )


@key.command("list")
@json_option
@pass_invocation
def list_keys(invocation: Invocation) -> None:
    """List the keys, newest first, without their secrets."""
    with invocation.client() as client:
        _show(invocation, list(client.signingkeys.list()))


@key.command()
@json_option
@pass_invocation
def rotate(invocation: Invocation) -> None:
    """Sign by a new key; earlier ones verify until the last token that they signed has ended."""
    with invocation.client() as client:
        _show(invocation, list(client.signingkeys.rotate()))
