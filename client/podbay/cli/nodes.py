"""`podbay node`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from podbay.cli.invocation import Invocation, json_option, pass_invocation
from podbay.cli.lazy import Noun
from podbay.cli.output import details, progress, table, write_json

if TYPE_CHECKING:
    from podbay import Client
    from podbay.types import NodeInfo

__all__ = ["node"]

_GIB = 1 << 30
# What a node may be that is drained: one that is out of reach may come back.
_ON_THE_WAY = ("Draining", "Unreachable")
_NAME = click.argument("name")
_HEADER = ("NAME", "DRIVER", "STATE", "REPLICAS", "GPUS", "CPUS", "MEMORY", "ADDRESS", "WHY")


@click.group(cls=Noun)
def node() -> None:
    """Nodes: the machines that run replicas."""


def _row(found: NodeInfo) -> tuple[object, ...]:
    return (
        found.name,
        found.driver,
        found.state + (" (spot)" if found.spot else ""),
        found.replicas,
        _gpus(found),
        f"{found.free_cpus:g}/{found.cpus}",
        f"{found.free_memory_bytes / _GIB:.1f}/{found.memory_bytes / _GIB:.1f} GiB",
        found.address,
        "; ".join(text for text in (found.message, *found.differences) if text),
    )


def _gpus(found: NodeInfo) -> str:
    """Say how many GPUs of each type are free, as "1/4 nvidia.com/gpu-t4"."""
    counts: dict[str, list[int]] = {}
    for gpu in found.gpus:
        of_type = counts.setdefault(gpu.hardware_type, [0, 0])
        of_type[0] += gpu.replica_id is None and not gpu.set_aside
        of_type[1] += 1
    return ", ".join(f"{free}/{all_} {kind}" for kind, (free, all_) in counts.items())


def _show(invocation: Invocation, nodes: list[Any]) -> None:
    if invocation.json:
        write_json(nodes)
        return
    table(_HEADER, [_row(found) for found in nodes], empty="no nodes")


def _show_one(invocation: Invocation, found: NodeInfo) -> None:
    if invocation.json:
        write_json(found)
        return
    _show(invocation, [found])


@node.command("list")
@json_option
@pass_invocation
def list_nodes(invocation: Invocation) -> None:
    """List the nodes: of GPUs, CPUs and memory what is free, and what there is."""
    with invocation.client() as client:
        _show(invocation, list(client.nodes.list()))


@node.command()
@_NAME
@json_option
@pass_invocation
def get(invocation: Invocation, name: str) -> None:
    """Show a node with its GPUs."""
    with invocation.client() as client:
        found = client.nodes.get(name)
    _show_one(invocation, found)
    if invocation.json:
        return
    click.echo()
    labels = ", ".join(f"{key}={value}" for key, value in found.labels.items())
    details([("engine", found.engine), ("labels", labels)])
    if found.gpus:
        click.echo()
        table(
            ("GPU", "TYPE", "MEMORY", "REPLICA", "SESSION", "SET ASIDE"),
            [
                (
                    gpu.id,
                    gpu.hardware_type,
                    f"{gpu.memory_bytes / _GIB:.0f} GiB" if gpu.memory_bytes else "",
                    gpu.replica_id or "",
                    gpu.session_id or "",
                    gpu.set_aside,
                )
                for gpu in found.gpus
            ],
        )


@node.command()
@json_option
@pass_invocation
def watch(invocation: Invocation) -> None:
    """Show all nodes, and then each that changes, until Ctrl-C."""
    with invocation.client() as client:
        for change in client.nodes.watch():
            if invocation.json:
                write_json(change)
                continue
            for found in change.nodes:
                click.echo("  ".join(str(part) for part in _row(found) if part != ""))
            for name in change.removed:
                click.echo(f"{name}  is gone")


@node.command()
@_NAME
@json_option
@pass_invocation
def cordon(invocation: Invocation, name: str) -> None:
    """Stop new replicas on a node; those on it go on."""
    with invocation.client() as client:
        _show_one(invocation, client.nodes.cordon(name))


@node.command()
@_NAME
@json_option
@pass_invocation
def uncordon(invocation: Invocation, name: str) -> None:
    """Allow new replicas on a node again."""
    with invocation.client() as client:
        _show_one(invocation, client.nodes.uncordon(name))


@node.command()
@_NAME
@click.option("--wait", is_flag=True, help="Return when no replica is left on it.")
@json_option
@pass_invocation
def drain(invocation: Invocation, name: str, wait: bool) -> None:
    """Move all replicas away from a node, one by one.

    The new one is started first where there is room, and last where there is none.
    """
    with invocation.client() as client:
        found = client.nodes.drain(name)
        if wait and found.replicas:
            found = _emptied(invocation, client, found)
        _show_one(invocation, found)


def _emptied(invocation: Invocation, client: Client, found: NodeInfo) -> NodeInfo:
    """Wait until a node that is drained is empty or gone, and return how it was last.

    Raises:
        click.ClickException: It is drained no more.
    """
    name = found.name
    with progress(found.message, quiet=invocation.json) as shown:
        for change in client.nodes.watch():
            found = next((one for one in change.nodes if one.name == name), found)
            if not found.replicas or name in change.removed:
                break
            if found.state not in _ON_THE_WAY:
                raise click.ClickException(
                    f"node {name} is {found.state}, and not drained any more: somebody has called "
                    f"it off. {found.replicas} replicas are left on it."
                )
            shown.update(found.message)
    return found


@node.command()
@_NAME
@json_option
@pass_invocation
def undrain(invocation: Invocation, name: str) -> None:
    """End the draining of a node; what has moved does not come back."""
    with invocation.client() as client:
        _show_one(invocation, client.nodes.undrain(name))


@node.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
@pass_invocation
def declare(invocation: Invocation, file: Path) -> None:
    """Add the nodes of a TOML file, or change what is declared of them.

    The file has a [[nodes]] table for each node, or is one node.
    """
    from podbay.cli.node_file import read_nodes  # noqa: PLC0415 # takes long

    nodes = read_nodes(file)
    with invocation.client() as client:
        _show(invocation, [client.nodes.declare(one) for one in nodes])


@node.command()
@_NAME
@click.option(
    "--lost",
    is_flag=True,
    help="The machine is gone for good, with all that ran on it. Never say so of one that may "
    "come back.",
)
@json_option
@pass_invocation
def withdraw(invocation: Invocation, name: str, lost: bool) -> None:
    """Remove a declared node on which nothing runs."""
    with invocation.client() as client:
        client.nodes.withdraw(name, lost=lost)
    if invocation.json:
        write_json({"name": name, "withdrawn": True})
    else:
        click.echo(f"{name} is withdrawn")
