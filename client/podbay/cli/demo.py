"""`podbay demo`."""

from __future__ import annotations

import signal
import sys

import click

from podbay.cli.lazy import LoneCommand

__all__ = ["demo"]


@click.command(cls=LoneCommand)
def demo() -> None:
    """Run the platform's main job on this machine, in a temporary folder.

    Starts the three services, completes a text on two replicas, streams an answer, classifies
    files of this machine with a real model, kills a replica under traffic, and stops everything.
    The exit code is 0 where all of it worked.
    """
    from podbay.demo.play import play  # noqa: PLC0415 # takes long
    from podbay.demo.show import Show  # noqa: PLC0415 # takes long

    # So that the end of the demo's process is the end of what it started, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(play(Show()))
