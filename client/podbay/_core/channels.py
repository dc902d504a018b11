"""What both faces do around a channel, without doing it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from podbay._core.operations import Service
from podbay._core.settings import CHANNEL_OPTIONS
from podbay._core.tls import TlsSettings, is_loopback
from podbay.errors import PodbayError, error_for
from podbay.types import Installation

__all__ = [
    "HEALTH_CHECK",
    "address_of",
    "authorization",
    "channel_options",
    "closed_error",
    "is_accepted",
    "is_bare_deadline",
]


HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
"""Answers without a token where there is a service; an empty message asks for all of it."""


def authorization(token: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata that carry a token."""
    return (("authorization", f"Bearer {token}"),)


def channel_options(address: str, tls: TlsSettings) -> list[tuple[str, Any]]:
    """Return the options of a channel to an address."""
    options: list[tuple[str, Any]] = list(CHANNEL_OPTIONS)
    if tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    if is_loopback(address):
        # A proxy of the environment is no way to this machine.
        options.append(("grpc.enable_http_proxy", 0))
    return options


def address_of(service: Service, installation: Installation) -> str:
    """Return where a service other than the registry is.

    Raises:
        PodbayError: The registry was not told.
    """
    address = (
        installation.session_manager_endpoint
        if service is Service.SESSION_MANAGER
        else installation.inference_router_endpoint
    )
    if not address:
        raise error_for(
            "SERVICE_UNREACHABLE",
            f"The registry does not know where the {service.value} is. Start the registry with "
            f"its address.",
            not_started=True,
        )
    return address


def closed_error() -> PodbayError:
    """Return the error of a call on a client that was closed."""
    return error_for("CANCELLED", "The client is closed.", not_started=True)


def is_accepted(initial_metadata: Iterable[Sequence[Any]] | None) -> bool:
    """Whether the router has taken an Exchange stream, by the stream's initial metadata."""
    return any(item[0] == "podbay-accepted" for item in initial_metadata or ())


def is_bare_deadline(error: PodbayError) -> bool:
    """Whether the time ran out at the client; the service then explained nothing."""
    return error.reason == "DEADLINE_EXCEEDED" and "grpcCode" in error.metadata
