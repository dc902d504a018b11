"""Where the services are and who calls: arguments, then the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from podbay._core.timeouts import check_timeout
from podbay._core.tls import FilePath, TlsSettings
from podbay._core.wire_errors import invalid
from podbay.errors import InvalidRequestError

__all__ = ["CHANNEL_OPTIONS", "ENDPOINT_VARIABLE", "TOKEN_VARIABLE", "Settings", "parse_endpoint"]

ENDPOINT_VARIABLE: Final = "PODBAY_API_ENDPOINT"
TOKEN_VARIABLE: Final = "PODBAY_API_TOKEN"  # noqa: S105 # the name of a variable, not a secret

_MAX_MESSAGE: Final = 64 << 20
_MESSAGE_SLACK: Final = 1 << 20

CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE + _MESSAGE_SLACK),
    ("grpc.max_send_message_length", _MAX_MESSAGE + _MESSAGE_SLACK),
    # A service that restarts is found again soon. (The "minimum" is how long one connection may
    # take to come about.)
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 250),
    # The services allow pings this often; without them a dead peer goes unnoticed.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Retries are the client's own: they know which calls may be sent again.
    ("grpc.enable_retries", 0),
    # Channels of one process to one address share a connection unless told otherwise; a closed
    # client must not leave traces in the next one.
    ("grpc.use_local_subchannel_pool", 1),
)
"""The options of every channel."""

_HOST_PORT: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s/:@\[\]]+):(?P<port>\d{1,5})")


_TLS_SCHEME: Final = "grpcs://"


def parse_endpoint(text: str) -> str:
    """Return an address as "host:port".

    Args:
        text: As "host:port", "grpc://host:port" or "grpcs://host:port", with or without a slash
            at the end.

    Raises:
        InvalidRequestError: It is none of these.
    """
    address = text.strip().removeprefix("grpc://").removeprefix(_TLS_SCHEME).rstrip("/")
    match = _HOST_PORT.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 1 << 16:
        raise invalid(
            "endpoint",
            'must be the registry\'s address as "host:port" or "grpcs://host:port", '
            'for example "127.0.0.1:7101"',
            "The endpoint",
        )
    return address


@dataclass(frozen=True, slots=True)
class Settings:
    """What a client was told.

    Attributes:
        endpoint: The registry's address, as "host:port".
        api_token: The API token.
        timeout: How long one call may take, in seconds, further tries included.
        retries: How often a call is sent again; 0 for never.
        tls: How the client speaks to the services.
    """

    endpoint: str
    api_token: str = field(repr=False)
    timeout: float
    retries: int
    tls: TlsSettings = field(default_factory=TlsSettings)

    @classmethod
    def resolve(
        cls,
        endpoint: str | None,
        api_token: str | None,
        *,
        timeout: float,
        retries: int,
        environment: Mapping[str, str],
        ca_file: FilePath | None = None,
        client_cert_file: FilePath | None = None,
        client_key_file: FilePath | None = None,
        server_name: str | None = None,
        insecure: bool | None = None,
    ) -> Settings:
        """Fill what was not given from the environment.

        Raises:
            InvalidRequestError: Something is missing, or has the wrong form.
        """
        endpoint = endpoint or environment.get(ENDPOINT_VARIABLE)
        api_token = (api_token or environment.get(TOKEN_VARIABLE) or "").strip()
        missing = []
        if not endpoint:
            missing.append(("endpoint", f"give endpoint=..., or set {ENDPOINT_VARIABLE}"))
        if not api_token:
            missing.append(("api_token", f"give api_token=..., or set {TOKEN_VARIABLE}"))
        if not endpoint or not api_token:
            names = " and ".join(name for name, _ in missing)
            raise InvalidRequestError(
                f"The client needs to know {names}. Give them as arguments, or set "
                f"{ENDPOINT_VARIABLE} (the registry's host:port) and {TOKEN_VARIABLE} (an API "
                "token); `podbay up` prints both.",
                reason="INVALID_REQUEST",
                violations=missing,
            )
        if not api_token.isascii() or not api_token.isprintable():
            raise invalid("api_token", "holds characters that no token has", "The client")
        if retries < 0:
            raise invalid("retries", "must be 0 or more", "The client")
        return cls(
            parse_endpoint(endpoint),
            api_token,
            check_timeout(timeout, timeout, "The client"),
            retries,
            TlsSettings.resolve(
                ca_file=ca_file,
                client_cert_file=client_cert_file,
                client_key_file=client_key_file,
                server_name=server_name,
                insecure=insecure,
                scheme=endpoint.strip().startswith(_TLS_SCHEME),
                environment=environment,
            ),
        )

    def again(self) -> dict[str, Any]:
        """Return the keywords that make a client with the same settings."""
        tls = self.tls
        return {
            "endpoint": f"{_TLS_SCHEME}{self.endpoint}" if tls.enabled else self.endpoint,
            "api_token": self.api_token,
            "timeout": self.timeout,
            "retries": self.retries,
            "ca_file": tls.ca_file,
            "client_cert_file": tls.cert_file,
            "client_key_file": tls.key_file,
            "server_name": tls.server_name,
            # Plain text as it was, whatever the environment says by now.
            "insecure": not tls.enabled,
        }
