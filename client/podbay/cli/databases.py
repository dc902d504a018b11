"""`--database`: a PostgreSQL instead of SQLite files, named without showing its password."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import click

__all__ = ["database_option"]

F = TypeVar("F", bound=Callable[..., Any])

_VARIABLE = "PODBAY_DATABASE"


def database_option(command: F) -> F:
    """Add `--database` and `--database-file`, which give the command its `database`: a URL."""
    command = click.option(
        "--database-file",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        expose_value=False,
        callback=_from_file,
        help="A file that holds the URL of --database; readable by its owner only.",
    )(command)
    return click.option(
        "--database",
        metavar="URL",
        callback=_from_option,
        help="A PostgreSQL, as postgresql://podbay@db.example/podbay, instead of SQLite files; "
        f"remembered in the data folder. A URL with a password comes from {_VARIABLE} or a file.",
    )(command)


def _from_file(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    if path.stat().st_mode & 0o077:
        raise click.BadParameter(f"{path} is open to others; mend it: chmod 600 {path}")
    if ctx.params.get("database") is not None:
        raise click.UsageError("give one of --database and --database-file")
    ctx.params["database"] = path.read_text(encoding="utf-8").strip()
    ctx.meta[__name__] = ctx.params["database"]


def _from_option(ctx: click.Context, _parameter: click.Parameter, url: str | None) -> str | None:
    # Nothing that is started here shall inherit it.
    variable = os.environ.pop(_VARIABLE, None)
    if url is None:
        return ctx.meta.get(__name__) or variable or None
    if _has_password(url):
        raise click.BadParameter(
            "everybody on this machine can read the password from the list of processes; change "
            f"it, and put the URL into {_VARIABLE} or into a file for --database-file"
        )
    return url


def _has_password(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.password or "password" in parse_qs(parts.query))
    except ValueError:
        # The service says what is wrong with it.
        return "@" in url
