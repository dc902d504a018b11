"""What models, services and sessions share on the command line."""

from __future__ import annotations

from typing import Any

import click

from podbay.cli.arguments import key_values, label_changes
from podbay.cli.invocation import Invocation
from podbay.cli.output import age, details, write_json

__all__ = ["change_labels", "delete_all", "query_arguments", "show_entity", "show_result"]


def query_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a `query` out of the options of a list."""
    arguments = {key: value for key, value in options.items() if value}
    if "labels" in arguments:
        arguments["labels"] = key_values(arguments["labels"], "--label")
    return arguments


def show_entity(
    invocation: Invocation, entity: Any, pairs: list[tuple[str, object]] | None = None
) -> None:
    """Write one resource: as JSON, or its common fields and then `pairs`."""
    if invocation.json:
        write_json(entity)
        return
    why = ": ".join(text for text in (entity.reason, entity.message) if text)
    labels = "\n".join(f"{key}={value}" for key, value in entity.labels.items())
    created = f"{entity.creationTime:%Y-%m-%d %H:%M:%S} UTC ({age(entity.creationTime)} ago)"
    details(
        (
            ("id", entity.id),
            ("name", getattr(entity, "name", None)),
            ("account", entity.account),
            ("status", entity.status),
            ("why", why),
            ("created", created),
            ("labels", labels),
            *(pairs or ()),
        )
    )


def show_result(invocation: Invocation, name: str, status: Any) -> None:
    """Write what became of a resource."""
    if invocation.json:
        write_json(status)
    else:
        click.echo(f"{name}  {status.status}{f' ({status.reason})' if status.reason else ''}")


def delete_all(invocation: Invocation, collection: str, ids: tuple[str, ...]) -> None:
    """Delete resources one after the other."""
    with invocation.client() as client:
        for name in ids:
            show_result(invocation, name, getattr(client, collection).delete(name))


def change_labels(
    invocation: Invocation, collection: str, name: str, changes: tuple[str, ...]
) -> None:
    """Set and remove labels of a resource, and show them."""
    with invocation.client() as client:
        part = getattr(client, collection)
        part.label(name, label_changes(changes))
        entity = part.get(name)
    if invocation.json:
        write_json(entity)
    else:
        details(entity.labels.items())
