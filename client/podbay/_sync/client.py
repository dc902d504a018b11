"""The synchronous client."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from podbay._core.kinds import HasIdentity
    from podbay._sync.resources import InferenceServices, Models
    from podbay._sync.sessions import InferenceSessions
    from podbay.schema.platform import InferenceService, InferenceSession, Model
    from podbay.types import Installation

__all__ = ["Client"]


class Client:
    """A client of an installation of Podbay; safe for threads.

    Nothing is sent before the first call. The client holds three channels at most, which all
    calls share. Close it when it is no longer needed, or use it as a context manager.

    Args:
        endpoint: The registry's address, as "127.0.0.1:7101", or "grpcs://host:port" for TLS with a
            publicly trusted certificate; PODBAY_API_ENDPOINT unless given.
        api_token: An API token; PODBAY_API_TOKEN unless given.
        timeout: How long one call may take, in seconds, further tries included; each method
            takes a timeout of its own as well.
        retries: How often a call that does no harm twice is sent again; 0 for never.
        ca_file: The certificate of the installation's authority, in PEM: the client speaks TLS, and
            believes services that it vouches for; PODBAY_API_CA_FILE unless given.
        client_cert_file: A certificate to show, where the services demand one;
            PODBAY_API_CLIENT_CERT_FILE unless given.
        client_key_file: Its private key; PODBAY_API_CLIENT_KEY_FILE unless given.
        server_name: The name that the services' certificates must have, where their addresses are
            not in them, as behind a tunnel; PODBAY_API_SERVER_NAME unless given.
        insecure: True to speak plain text, also with other machines, which then includes the
            token; False to do so in no case; PODBAY_API_INSECURE unless given. On this machine
            plain text needs no word.

    Attributes:
        models: Models.
        inferenceservices: Inference services.
        inferencesessions: Inference sessions.
        nodes: The machines that run replicas.
        signingkeys: The keys that sign session tokens.
        accounts: Accounts and their quotas.
        audit: The audit logs.
        tokens: API tokens.
        raw: Models, services and sessions as plain JSON.

    Raises:
        InvalidRequestError: The endpoint or the token is missing, or not valid, or settings
            contradict each other.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        api_token: str | None = None,
        *,
        timeout: float = 30.0,
        retries: int = 3,
        ca_file: str | os.PathLike[str] | None = None,
        client_cert_file: str | os.PathLike[str] | None = None,
        client_key_file: str | os.PathLike[str] | None = None,
        server_name: str | None = None,
        insecure: bool | None = None,
    ) -> None:
        # Here: with them come pydantic and the messages of gRPC, and a program that only names the
        # client, or shows its help, shall not wait for them.
        from podbay._core.settings import Settings  # noqa: PLC0415
        from podbay._sync.admin import (  # noqa: PLC0415
            Accounts,
            Audit,
            Nodes,
            SigningKeys,
            Tokens,
        )
        from podbay._sync.raw import Raw  # noqa: PLC0415
        from podbay._sync.resources import InferenceServices, Models  # noqa: PLC0415
        from podbay._sync.sessions import InferenceSessions  # noqa: PLC0415
        from podbay._sync.transport import Transport  # noqa: PLC0415

        settings = Settings.resolve(
            endpoint,
            api_token,
            timeout=timeout,
            retries=retries,
            environment=os.environ,
            ca_file=ca_file,
            client_cert_file=client_cert_file,
            client_key_file=client_key_file,
            server_name=server_name,
            insecure=insecure,
        )
        transport = Transport(settings)
        self._transport = transport
        self.models = Models(transport)
        self.inferenceservices = InferenceServices(transport)
        self.inferencesessions = InferenceSessions(transport)
        self.nodes = Nodes(transport)
        self.signingkeys = SigningKeys(transport)
        self.accounts = Accounts(transport)
        self.audit = Audit(transport)
        self.tokens = Tokens(transport)
        self.raw = Raw(self.models, self.inferenceservices, self.inferencesessions)

    @property
    def endpoint(self) -> str:
        """The registry's address, as "host:port"."""
        return self._transport.settings.endpoint

    @property
    def timeout(self) -> float:
        """How long one call may take unless it says otherwise, in seconds."""
        return self._transport.settings.timeout

    def apigroup(self, kind: str) -> Models | InferenceServices | InferenceSessions:
        """Return the group of a kind: "Model", "InferenceService" or "InferenceSession".

        Raises:
            UnknownKindError: Podbay has no resources of this kind; also a KeyError.
        """
        from podbay._core.kinds import group_of  # noqa: PLC0415 # see the constructor

        group: Models | InferenceServices | InferenceSessions = getattr(self, group_of(kind))
        return group

    def get(
        self, entity: HasIdentity | Mapping[str, Any], *, timeout: float | None = None
    ) -> Model | InferenceService | InferenceSession:
        """Return the resource that an identifier names.

        Args:
            entity: An `EntityIdentifier`, its JSON form, or whatever has a `kind` and an `id`.
            timeout: How long the call may take, in seconds, further tries included.

        Raises:
            UnknownKindError: Podbay has no resources of this kind; also a KeyError.
            NotFoundError: There is none with this id.
        """
        from podbay._core.kinds import identity  # noqa: PLC0415 # see the constructor

        group, found = identity(entity)
        resource: Model | InferenceService | InferenceSession = getattr(self, group).get(
            found, timeout=timeout
        )
        return resource

    def installation(self, *, timeout: float | None = None) -> Installation:
        """Return what and where the installation is; asked once."""
        return self._transport.installation(timeout)

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
