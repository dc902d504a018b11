"""What one call of the command line is about: where to, as whom, and in which form."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from podbay import Client
    from podbay.local.state import DataDir

__all__ = ["Invocation", "account_of", "data_dir_option", "json_option", "pass_invocation"]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Invocation:
    """The options that every command shares.

    Attributes:
        endpoint: The registry; None for that of this machine's `podbay up`.
        token_file: The file of the API token; None for the environment or `podbay up`.
        data_dir: The data folder of `podbay up`; None for the default.
        json: Whether a program reads the output.
        tls: What was said about TLS, as the keywords of `Client`.
        connect: Makes the client of an endpoint and a token.
    """

    endpoint: str | None = None
    token_file: Path | None = None
    data_dir: Path | None = None
    json: bool = False
    tls: dict[str, Any] = field(default_factory=dict)
    connect: Callable[[str, str], Client] | None = None

    def data(self) -> DataDir:
        """Return the data folder of `podbay up`."""
        from podbay.local.state import DataDir, default_data_dir  # noqa: PLC0415 # takes long

        return DataDir(self.data_dir or default_data_dir())

    def client(self) -> Client:
        """Return a client for the endpoint and the token that are in effect.

        Raises:
            click.UsageError: There is no endpoint, or no token for it.
        """
        endpoint, token, tls = self._address_and_token()
        if self.connect is not None:
            return self.connect(endpoint, token)
        from podbay import Client  # noqa: PLC0415 # takes long

        return Client(endpoint, token, **(self.tls or tls))

    def _address_and_token(self) -> tuple[str, str, dict[str, Any]]:
        """Return the registry, the token, and how `podbay up` speaks where it is the one."""
        token = self._given_token()
        if self.endpoint and token:
            return self.endpoint, token, {}
        data = self.data()
        record = data.running()
        here = record.service("registry").endpoint if record and record.services else None
        endpoint = self.endpoint or here
        if endpoint is None:
            raise click.UsageError(
                f"there is no `podbay up` running on {data.path}, and no address was given: start "
                "one with `podbay up`, or set PODBAY_API_ENDPOINT and PODBAY_API_TOKEN"
            )
        if token is None and endpoint == here:
            # The administrator's token goes to the registry of this machine and nowhere else.
            token = _read_token(data.admin_token_file)
        if token is None:
            raise click.UsageError(
                f"there is no token for {endpoint}: set PODBAY_API_TOKEN, or name a file with "
                "--token-file"
            )
        return endpoint, token, record.connection() if record and endpoint == here else {}

    def _given_token(self) -> str | None:
        if self.token_file is not None:
            return _read_token(self.token_file)
        return os.environ.get("PODBAY_API_TOKEN") or None


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise click.UsageError(f"the token file {path} cannot be read: {error.strerror}") from error


def account_of(client: Client, account: str | None) -> str:
    """Return the account that was named, else that of the client's token."""
    return account or client.installation().account


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


def json_option(command: F) -> F:
    """Add `--json`, which also makes errors JSON."""

    def remember(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
        if wanted:
            ctx.ensure_object(Invocation).json = True

    return click.option(
        "--json",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=remember,
        help="Write JSON for programs; errors too, to stderr.",
    )(command)


def data_dir_option(command: F) -> F:
    """Add `--data-dir` to a command that is about `podbay up`."""

    def remember(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
        if path is not None:
            ctx.ensure_object(Invocation).data_dir = path

    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        expose_value=False,
        callback=remember,
        help="The data folder. [env PODBAY_DATA_DIR; default ~/.podbay]",
    )(command)
