"""`podbay backup` and `podbay restore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from podbay.cli.databases import database_option
from podbay.cli.invocation import Invocation, data_dir_option, json_option, pass_invocation
from podbay.cli.lazy import LoneCommand
from podbay.cli.output import progress, write_json

if TYPE_CHECKING:
    from podbay.local.backup import Saved

__all__ = ["backup", "restore"]

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(cls=LoneCommand)
@click.argument("folder", type=_FOLDER)
@data_dir_option
@json_option
@pass_invocation
@click.pass_context
def backup(ctx: click.Context, invocation: Invocation, /, *, folder: Path) -> None:
    """Save what `podbay up` keeps into FOLDER, while it runs.

    Databases, the files of models, tokens and keys: whoever has the folder has the installation.
    It is readable by its owner only.
    """
    from podbay.local.backup import save  # noqa: PLC0415 # takes long

    with progress(f"saves {invocation.data().path}", quiet=invocation.json):
        saved = save(invocation.data(), folder)
    _show(ctx, invocation, saved, f"saved {invocation.data().path} in {saved.folder}")


@click.command(cls=LoneCommand)
@click.argument("folder", type=_FOLDER)
@data_dir_option
@database_option
@json_option
@pass_invocation
@click.pass_context
def restore(
    ctx: click.Context, invocation: Invocation, /, *, folder: Path, database: str | None
) -> None:
    """Make a data folder out of the backup in FOLDER; start it with `podbay up`.

    The data folder must not be there, or be empty, and so must the schemas of a --database.
    """
    from podbay.local.backup import restore as load  # noqa: PLC0415 # takes long

    with progress(f"restores {folder}", quiet=invocation.json):
        saved = load(folder, invocation.data(), database)
    _show(ctx, invocation, saved, f"restored {folder} of {saved.created} in {saved.folder}")


def _show(ctx: click.Context, invocation: Invocation, saved: Saved, text: str) -> None:
    if invocation.json:
        write_json(
            {
                "folder": str(saved.folder),
                "size": saved.size,
                "created": saved.created,
                "troubles": list(saved.troubles),
            }
        )
    else:
        click.echo(f"{text} ({saved.size / 1e6:.1f} MB)")
    for line in saved.troubles:
        click.secho(line, fg="yellow", err=True)
    ctx.exit(1 if saved.troubles else 0)
