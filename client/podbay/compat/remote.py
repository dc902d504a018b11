"""`dyff.client.Client`: Podbay's client with the platform's settings."""

from __future__ import annotations

import os
import warnings
from typing import Any

import podbay
from podbay._core.settings import ENDPOINT_VARIABLE, TOKEN_VARIABLE
from podbay._core.tls import CA_FILE_VARIABLE, INSECURE_VARIABLE, is_on
from podbay._core.wire_errors import invalid
from podbay.compat.groups import CompatModels, CompatServices, CompatSessions, CompatTokens
from podbay.compat.refusals import no_such_group
from podbay.compat.timeouts import seconds

__all__ = ["Client"]

# What the platform's client takes, and Podbay's has no use for: it speaks gRPC, pushes no images.
_UNUSED = frozenset({"backoff", "default_headers", "registry_url"})


class Client(podbay.Client):
    """A client of an installation of Podbay, made as the platform's is.

    Args:
        api_token: An API token; PODBAY_API_TOKEN or DYFF_API_TOKEN unless given.
        api_key: The platform's former name of it.
        endpoint: The registry's address, as "127.0.0.1:7101"; PODBAY_API_ENDPOINT or
            DYFF_API_ENDPOINT unless given.
        timeout: How long one call may take, in seconds, or as an httpx.Timeout.
        retries: How often a call that does no harm twice is sent again.
        insecure: Where the platform's client would not look at certificates, this one speaks plain
            text; PODBAY_API_INSECURE or DYFF_API_INSECURE unless given. Certificates are for
            PODBAY_API_CA_FILE and its kin.
        verify_ssl_certificates: The platform's former name of it: False means insecure.
        **unused: Settings of the platform's client that mean nothing here; each is warned of.

    Raises:
        InvalidRequestError: The endpoint or the token is missing, or not valid.
    """

    def __init__(
        self,
        *,
        api_token: str | None = None,
        api_key: str | None = None,
        endpoint: str | None = None,
        timeout: Any = 30.0,
        retries: int = 3,
        insecure: bool | None = None,
        verify_ssl_certificates: bool | None = None,
        **unused: Any,
    ) -> None:
        for name in unused:
            if name not in _UNUSED:
                raise TypeError(f"Client() got an unexpected keyword argument {name!r}")
            warnings.warn(f"Podbay does not use the client's setting {name!r}", stacklevel=2)
        super().__init__(
            endpoint or _setting("endpoint", ENDPOINT_VARIABLE, "DYFF_API_ENDPOINT"),
            api_token or api_key or _setting("api_token", TOKEN_VARIABLE, "DYFF_API_TOKEN"),
            timeout=seconds(timeout),
            retries=retries,
            insecure=_insecure(insecure, verify_ssl_certificates),
        )
        self.models = CompatModels(self._transport)
        self.inferenceservices = CompatServices(self._transport)
        self.inferencesessions = CompatSessions(self._transport)
        self.tokens: CompatTokens = CompatTokens(self._transport)

    def __getattr__(self, name: str) -> Any:
        no_such_group("Client", name)


def _insecure(insecure: bool | None, verify_ssl_certificates: bool | None) -> bool | None:
    """Return whether plain text is asked for; None for what the environment says.

    Raises:
        ValueError: Both settings are given.
    """
    if verify_ssl_certificates is not None:
        if insecure is not None:
            raise ValueError("insecure and verify_ssl_certificates say the same: give one of them")
        warnings.warn(
            "verify_ssl_certificates is the former name of insecure",
            DeprecationWarning,
            stacklevel=3,
        )
        return True if not verify_ssl_certificates else None
    if insecure:
        return True
    # The platform's False is its default, and not a word against what the environment says.
    own, platforms = os.environ.get(INSECURE_VARIABLE), os.environ.get("DYFF_API_INSECURE")
    if own is None and is_on(platforms) and not os.environ.get(CA_FILE_VARIABLE):
        return True
    return None


def _setting(field: str, own: str, platforms: str) -> str:
    value = os.environ.get(own) or os.environ.get(platforms)
    if not value:
        raise invalid(
            field, f"set {own} or {platforms}; `podbay up` prints what it must be", "The client"
        )
    return value
