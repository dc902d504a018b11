"""`podbay model`."""

from __future__ import annotations

from typing import Any

import click

from podbay.cli.arguments import filter_options, read_json_file
from podbay.cli.entities import change_labels, delete_all, query_arguments, show_entity
from podbay.cli.invocation import Invocation, json_option, pass_invocation
from podbay.cli.lazy import Noun
from podbay.cli.output import age, table, write_json

__all__ = ["model"]

_COLLECTION = "models"


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
    source = [("source", found.source.kind.value), ("artifact", found.artifact.kind.value)]
    show_entity(invocation, found, [*source])


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
