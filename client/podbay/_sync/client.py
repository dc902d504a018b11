"""The synchronous client."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from podbay.types import Installation

__all__ = ["Client"]


class Client:
    """A client of an installation of Podbay; safe for threads.

    Nothing is sent before the first call. The client holds three channels at most, which all
    calls share. Close it when it is no longer needed, or use it as a context manager.

    Args:
        endpoint: The registry's address, as "127.0.0.1:7101" or "grpc://host:port";
            PODBAY_API_ENDPOINT unless given.
        api_token: An API token; PODBAY_API_TOKEN unless given.
        timeout: How long one call may take, in seconds, further tries included.
        retries: How often a call that does no harm twice is sent again; 0 for never.

    Attributes:
        models: Models.
        inferenceservices: Inference services.
        inferencesessions: Inference sessions.
        nodes: The machines that run replicas.
        accounts: Accounts.
        tokens: API tokens.

    Raises:
        InvalidRequestError: The endpoint or the token is missing, or not valid.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        api_token: str | None = None,
        *,
        timeout: float = 30.0,
        retries: int = 3,
    ) -> None:
        # Here: with them come pydantic and the messages of gRPC, and a program that only names the
        # client, or shows its help, shall not wait for them.
        from podbay._core.settings import Settings  # noqa: PLC0415
        from podbay._sync.admin import Accounts, Nodes, Tokens  # noqa: PLC0415
        from podbay._sync.resources import InferenceServices, Models  # noqa: PLC0415
        from podbay._sync.sessions import InferenceSessions  # noqa: PLC0415
        from podbay._sync.transport import Transport  # noqa: PLC0415

        settings = Settings.resolve(
            endpoint, api_token, timeout=timeout, retries=retries, environment=os.environ
        )
        transport = Transport(settings)
        self._transport = transport
        self.models = Models(transport)
        self.inferenceservices = InferenceServices(transport)
        self.inferencesessions = InferenceSessions(transport)
        self.nodes = Nodes(transport)
        self.accounts = Accounts(transport)
        self.tokens = Tokens(transport)

    @property
    def endpoint(self) -> str:
        """The registry's address, as "host:port"."""
        return self._transport.settings.endpoint

    def installation(self) -> Installation:
        """Return what and where the installation is; asked once."""
        return self._transport.installation()

    def close(self) -> None:
        """Cancel what runs and close the channels. May be called more than once."""
        self.inferencesessions._close()  # noqa: SLF001 # a part of this client
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
