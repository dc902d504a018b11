"""Create requests out of files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click
from pydantic import BaseModel, ValidationError

from podbay.cli.invocation import account_of

if TYPE_CHECKING:
    from podbay import Client

__all__ = ["request_from", "request_from_options"]

T = TypeVar("T", bound=BaseModel)


def request_from(kind: type[T], specification: Any, client: Client, account: str | None) -> T:
    """Read a create request, and fill in the account where the file names none.

    Raises:
        click.UsageError: It breaks a rule of the request; each field is named by its path.
    """
    if isinstance(specification, dict) and "account" not in specification:
        specification = {**specification, "account": account_of(client, account)}
    return request_from_options(kind, specification)


def request_from_options(kind: type[T], values: Any) -> T:
    """Read a model out of plain data.

    Raises:
        click.UsageError: They break a rule of the model; each field is named by its path.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        broken = [
            f"{'.'.join(map(str, item['loc'])) or 'the whole'}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        lines = "\n".join(f"  {line}" for line in broken)
        raise click.UsageError(f"this breaks rules:\n{lines}") from error
