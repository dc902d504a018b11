"""What a session asks of nodes, and where it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from podbay.cli.invocation import Invocation
from podbay.cli.output import write_json

if TYPE_CHECKING:
    from podbay.types import Placement

__all__ = ["gpu_options", "placement_lines", "read_accelerator", "show_placement"]

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--gpus", type=click.IntRange(min=1), help="How many GPUs each replica has."),
    click.option(
        "--gpu-type",
        "gpu_types",
        multiple=True,
        metavar="TYPE",
        help="A hardware type that will do, as nvidia.com/gpu-t4; again for others that will.",
    ),
    click.option("--gpu-memory", metavar="SIZE", help="The least memory of each GPU, as 40Gi."),
    click.option(
        "--spot/--no-spot",
        default=None,
        help="Whether nodes that may be taken away will do; they do unless said.",
    ),
)


def gpu_options(command: F) -> F:
    """Add the options of what each replica needs."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_accelerator(
    count: int | None, types: tuple[str, ...], memory: str | None
) -> dict[str, Any] | None:
    """Return the accelerator that the options ask for; None where they ask for none.

    Raises:
        click.UsageError: There is no hardware type.
    """
    if count is None and not types and memory is None:
        return None
    if not types:
        raise click.UsageError("--gpus and --gpu-memory need a --gpu-type")
    gpu: dict[str, Any] = {"hardwareTypes": list(types), "count": count or 1}
    if memory is not None:
        gpu["memory"] = memory
    return {"kind": "GPU", "gpu": gpu}


def show_placement(invocation: Invocation, placement: Placement) -> None:
    """Write where the replicas of a session would go: as JSON, or in words."""
    if invocation.json:
        write_json(placement)
        return
    for line in placement_lines(placement):
        click.echo(line)


def placement_lines(placement: Placement) -> Iterator[str]:
    """Return the lines that explain a placement, with every node."""
    waiting = placement.desired - placement.placed - placement.fitting
    replicas = "1 replica" if placement.desired == 1 else f"{placement.desired} replicas"
    yield (
        f"{replicas}: {placement.placed} have a place, {placement.fitting} find one now, "
        f"{waiting} wait" + (f" ({placement.reason})" if placement.reason is not None else "")
    )
    if placement.waiting_before:
        yield f"  {placement.waiting_before} replicas of other sessions wait before them"
    yield f"  {placement.summary.partition(', and no node has room')[0]}"
    yield ""
    yield "one more replica, node by node:"
    for verdict in placement.nodes:
        yield f"  {verdict.node}: {'it fits' if verdict.fits else '; '.join(verdict.reasons)}"
    if not placement.nodes:
        yield "  there is no node of its kind"
