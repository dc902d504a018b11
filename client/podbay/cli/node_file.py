"""Files of nodes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import click
import pydantic

from podbay.schema.nodes import NodeDeclaration, NodesFile

__all__ = ["read_nodes"]


def read_nodes(file: Path) -> list[NodeDeclaration]:
    """Return the nodes of a TOML file.

    Raises:
        click.ClickException: It cannot be read, or breaks a rule; the text names the field.
    """
    try:
        return NodesFile.parse(tomllib.loads(file.read_text(encoding="utf-8"))).nodes
    except OSError as error:
        raise click.ClickException(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file} is not TOML: {error}") from error
    except pydantic.ValidationError as error:
        lines = "".join(
            f"\n  {'.'.join(map(str, one['loc'])) or 'file'}: "
            + one["msg"].removeprefix("Value error, ")
            for one in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise click.ClickException(f"{file} declares no valid nodes:{lines}") from error
