"""`podbay node`."""

from __future__ import annotations

from typing import Any

import click

from podbay.cli.invocation import Invocation, json_option, pass_invocation
from podbay.cli.lazy import Noun
from podbay.cli.output import table, write_json

__all__ = ["node"]

_GIB = 1 << 30


@click.group(cls=Noun)
def node() -> None:
    """Nodes: the machines that run replicas."""


def _show(invocation: Invocation, nodes: list[Any]) -> None:
    if invocation.json:
        write_json(nodes)
        return
    table(
        ("NAME", "DRIVER", "STATE", "REPLICAS", "CPUS", "MEMORY", "ADDRESS", "WHY"),
        [
            (
                n.name,
                n.driver,
                n.state,
                n.replicas,
                n.cpus,
                f"{n.memory_bytes / _GIB:.1f} GiB",
                n.address,
                n.message,
            )
            for n in nodes
        ],
        empty="no nodes",
    )


@node.command("list")
@json_option
@pass_invocation
def list_nodes(invocation: Invocation) -> None:
    """List the nodes."""
    with invocation.client() as client:
        _show(invocation, list(client.nodes.list()))


@node.command()
@click.argument("name")
@json_option
@pass_invocation
def cordon(invocation: Invocation, name: str) -> None:
    """Stop new replicas on a node; those on it go on."""
    with invocation.client() as client:
        _show(invocation, [client.nodes.cordon(name)])


@node.command()
@click.argument("name")
@json_option
@pass_invocation
def uncordon(invocation: Invocation, name: str) -> None:
    """Allow new replicas on a node again."""
    with invocation.client() as client:
        _show(invocation, [client.nodes.uncordon(name)])
