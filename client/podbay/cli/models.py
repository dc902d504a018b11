"""`podbay model`."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from podbay.cli.arguments import filter_options, read_json_file
from podbay.cli.entities import change_labels, delete_all, query_arguments, show_entity
from podbay.cli.invocation import Invocation, account_of, json_option, pass_invocation
from podbay.cli.lazy import Noun
from podbay.cli.output import age, progress, table, transfer, write_json

if TYPE_CHECKING:
    from podbay import Client
    from podbay._volumes.scan import LeftOut
    from podbay.schema.platform import Model

__all__ = ["model"]

_COLLECTION = "models"
# So many paths are named where there are more.
_NAMED = 3


@click.group(cls=Noun)
def model() -> None:
    """Models: the raw form of systems, as weights."""


@model.command()
@click.option(
    "-f", "--file", "path", required=True, metavar="FILE", help="A create request as JSON; - stdin."
)
@click.option("--account", help="The account, where the file names none.")
@json_option
@pass_invocation
def create(invocation: Invocation, path: str, account: str | None) -> None:
    """Register a model."""
    from podbay.cli.requests import request_from  # noqa: PLC0415 # takes long
    from podbay.schema.requests import ModelCreateRequest  # noqa: PLC0415 # takes long

    specification = read_json_file(path)
    with invocation.client() as client:
        request = request_from(ModelCreateRequest, specification, client, account)
        show_entity(invocation, client.models.create(request))


@model.command("list")
@filter_options()
@json_option
@pass_invocation
def list_models(invocation: Invocation, /, **options: Any) -> None:
    """List models."""
    with invocation.client() as client:
        models = client.models.query(**query_arguments(options))
    if invocation.json:
        write_json(models)
        return
    table(
        ("ID", "NAME", "STATUS", "SOURCE", "ACCOUNT", "AGE"),
        [
            (m.id, m.name, m.status, m.source.kind.value, m.account, age(m.creationTime))
            for m in models
        ],
        empty="no models",
    )


@model.command()
@click.argument("model_id", metavar="ID")
@json_option
@pass_invocation
def get(invocation: Invocation, model_id: str) -> None:
    """Show a model."""
    with invocation.client() as client:
        found = client.models.get(model_id)
    _show(invocation, found)


@model.command()
@click.argument("model_id", metavar="ID")
@click.option("--wait", is_flag=True, help="Go on until its files are there, or never will be.")
@json_option
@pass_invocation
def status(invocation: Invocation, model_id: str, wait: bool) -> None:
    """Show where a model stands, and why."""
    with invocation.client() as client:
        found = _waited(invocation, client, model_id) if wait else client.models.get(model_id)
        files = client.models.files(model_id) if found.status != "Deleted" else []
    stored = sum(file.state == "Stored" for file in files)
    size = sum(file.size for file in files)
    pairs = [("files", f"{stored} of {len(files)} stored, {size} bytes")] if files else []
    _show(invocation, found, *pairs)
    if wait and found.status != "Ready":
        click.get_current_context().exit(1)


def _waited(invocation: Invocation, client: Client, model_id: str) -> Model:
    from podbay.schema.platform import is_status_terminal  # noqa: PLC0415 # takes long

    found = client.models.get(model_id)
    if is_status_terminal(found.status):
        return found
    with (
        progress(f"{found.status}", quiet=invocation.json) as shown,
        closing(client.models.watch(id=model_id)) as changes,
    ):
        for change in changes:
            found = change.resource
            shown.update(": ".join(text for text in (found.status, found.message) if text))
            if is_status_terminal(found.status):
                break
    return found


def _show(invocation: Invocation, found: Model, *pairs: tuple[str, object]) -> None:
    source = [("source", found.source.kind.value), ("artifact", found.artifact.kind.value)]
    show_entity(invocation, found, [*source, *pairs])


@model.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--name", help="What people call it; the folder's name unless said.")
@click.option(
    "--model", "model_id", metavar="ID", help="Upload to this model: it makes no new one."
)
@click.option("--account", help="The account; that of the token unless said.")
@click.option("--memory", help="What a service needs to load it, as 8Gi.")
@click.option("--cpu", help="The processors that it needs, as 2.")
@click.option("--include", multiple=True, metavar="PATTERN", help="Only such files; as .gitignore.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="No such files; as .gitignore.")
@click.option("--include-symlinks", is_flag=True, help="Follow symbolic links.")
@json_option
@pass_invocation
def upload(
    invocation: Invocation,
    directory: Path,
    name: str | None,
    model_id: str | None,
    account: str | None,
    memory: str | None,
    cpu: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    include_symlinks: bool,
) -> None:
    """Upload the files of a folder as a model.

    Where it breaks off, run it again: the same model is found by its name and files, and only
    what is missing is sent.
    """
    if model_id is not None and (name or account or memory or cpu or include or exclude):
        raise click.UsageError("--model names a model that is there: it takes no further options")
    from podbay._volumes.scan import left_out  # noqa: PLC0415 # takes long

    resources = {key: text for key, text in (("memory", memory), ("cpu", cpu)) if text}
    with invocation.client() as client, transfer(quiet=invocation.json) as tell:
        target: Model | str | None = model_id
        if target is None:
            target = client.models.create_from_volume(
                directory,
                account=account_of(client, account),
                name=name or directory.resolve().name,
                resources=resources,
                include_symlinks=include_symlinks,
                include=list(include) or None,
                exclude=list(exclude) or None,
                reuse=True,
                progress=tell,
            )
            if not invocation.json:
                found_out = left_out(
                    directory,
                    include_symlinks=include_symlinks,
                    include=list(include) or None,
                    exclude=list(exclude) or None,
                )
                _tell_left_out(found_out)
        found = client.models.upload_volume(target, directory, progress=tell)
    _show(invocation, found)


def _tell_left_out(found: LeftOut) -> None:
    """Say on stderr what of a folder is not uploaded."""
    for paths, one, several, way_out in (
        (found.links, "symbolic link", "symbolic links", "; --include-symlinks follows them"),
        (found.special, "thing that is no file", "things that are no files", ""),
    ):
        if paths:
            names = ", ".join(paths[:_NAMED]) + (", …" if len(paths) > _NAMED else "")
            what = one if len(paths) == 1 else several
            click.echo(f"left out: {len(paths)} {what} ({names}){way_out}", err=True)


@model.command()
@click.argument("model_id", metavar="ID")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@json_option
@pass_invocation
def download(invocation: Invocation, model_id: str, directory: Path) -> None:
    """Download the files of a model into a folder, and verify them.

    Where it breaks off, run it again: only what is missing is sent.
    """
    with invocation.client() as client:
        with transfer(quiet=invocation.json) as tell:
            client.models.download(model_id, directory, progress=tell)
        files = client.models.files(model_id)
    if invocation.json:
        write_json(files)
    else:
        click.echo(f"{len(files)} files, {sum(file.size for file in files)} bytes in {directory}")


@model.command()
@click.argument("model_id", metavar="ID")
@json_option
@pass_invocation
def files(invocation: Invocation, model_id: str) -> None:
    """List the files of a model."""
    with invocation.client() as client:
        found = client.models.files(model_id)
    if invocation.json:
        write_json(found)
        return
    table(
        ("PATH", "BYTES", "STATE", "SHA256"),
        [(file.path, file.size, file.state, file.sha256 or "") for file in found],
        empty="no files",
    )


@model.command()
@click.argument("model_id", metavar="ID")
@json_option
@pass_invocation
def logs(invocation: Invocation, model_id: str) -> None:
    """Show what was written while a model was fetched or uploaded.

    With --json each line is a string.
    """
    with invocation.client() as client:
        for line in client.models.logs(model_id):
            click.echo(json.dumps(line, ensure_ascii=False) if invocation.json else line)


@model.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@json_option
@pass_invocation
def delete(invocation: Invocation, ids: tuple[str, ...]) -> None:
    """Delete models."""
    delete_all(invocation, _COLLECTION, ids)


@model.command()
@click.argument("model_id", metavar="ID")
@click.argument("changes", metavar="KEY=VALUE|KEY-...", nargs=-1, required=True)
@json_option
@pass_invocation
def label(invocation: Invocation, model_id: str, changes: tuple[str, ...]) -> None:
    """Set labels (KEY=VALUE) and remove them (KEY-)."""
    change_labels(invocation, _COLLECTION, model_id, changes)
