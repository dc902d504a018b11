"""Arguments that several commands share: files, labels, key and value."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["filter_options", "key_values", "label_changes", "read_body", "read_json_file"]

F = TypeVar("F", bound=Callable[..., Any])


def key_values(pairs: Iterable[str], what: str) -> dict[str, str]:
    """Read texts as "KEY=VALUE".

    Args:
        pairs: The texts.
        what: What they are, for the error, as "--env".

    Raises:
        click.BadParameter: A text has no key, or no equals sign.
    """
    result = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not key or not sign:
            raise click.BadParameter(f"{what} takes KEY=VALUE, not {pair!r}")
        result[key] = value
    return result


def label_changes(changes: Iterable[str]) -> dict[str, str | None]:
    """Read texts as "KEY=VALUE", which sets a label, and "KEY-", which removes it.

    Raises:
        click.BadParameter: A text is neither.
    """
    result: dict[str, str | None] = {}
    for change in changes:
        if "=" in change:
            result.update(key_values((change,), "a label"))
        elif change.endswith("-") and len(change) > 1:
            result[change[:-1]] = None
        else:
            raise click.BadParameter(
                f"{change!r}: write KEY=VALUE to set a label, and KEY- to remove it"
            )
    return result


def read_json_file(path: str) -> Any:
    """Read a JSON file; "-" is the standard input.

    Raises:
        click.BadParameter: It cannot be read, or holds no JSON.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} cannot be read: {_why(error)}") from error
    return _parse(text, path)


def read_body(body: str | None) -> Any:
    """Read the body of a call: JSON, "@FILE", or "-" for the standard input.

    Raises:
        click.BadParameter: There is none, or it is no JSON.
    """
    if body is None and sys.stdin.isatty():
        raise click.BadParameter(
            """give the body as JSON, as '{"text": "hello"}', as @FILE, or - for standard input"""
        )
    if body is None or body == "-":
        return read_json_file("-")
    if body.startswith("@"):
        return read_json_file(body[1:])
    return _parse(body, "the body")


def _parse(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        name = "standard input" if what == "-" else what
        raise click.BadParameter(f"{name} is not JSON: {error}") from error


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or "it is not text in UTF-8"


def filter_options(*, named: bool = True) -> Callable[[F], F]:
    """Add the options that select resources in lists.

    Args:
        named: Whether the resources have names.
    """
    options = [
        click.option("--account", help="Only those of this account."),
        click.option("--status", help="Only those with this status."),
        click.option("--reason", help="Only those with this reason."),
        click.option(
            "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only those labelled so."
        ),
        click.option("--query", help="A query as JSON: an object, or a list of objects."),
    ]
    if named:
        options.append(click.option("--name", help="Only those of this name."))

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add
