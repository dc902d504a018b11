"""What the certificates of an installation say: who somebody is, and by which names it is known.

An identity is a URI among a certificate's alternative names: `podbay://INSTALLATION/registry` for
a service, `podbay://INSTALLATION/client/NAME` for somebody else. Names below `podbay.internal` are
our own, and in no DNS: `registry.INSTALLATION.podbay.internal` is a name that only the registry's
certificate has, so a service that connects to the registry and asks for it speaks to no other
service, whatever the address is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = [
    "INFERENCE_ROUTER",
    "REGISTRY",
    "SERVICES",
    "SESSION_MANAGER",
    "Identity",
    "check_installation",
    "installation_dns",
    "parse_identity",
    "service_dns",
]

REGISTRY: Final = "registry"
SESSION_MANAGER: Final = "session-manager"
INFERENCE_ROUTER: Final = "inference-router"
SERVICES: Final = (REGISTRY, SESSION_MANAGER, INFERENCE_ROUTER)
"""The services of an installation, each with an identity of its own."""

_SCHEME: Final = "podbay://"
_DOMAIN: Final = "podbay.internal"
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is within an installation.

    Attributes:
        installation: The installation's name, a DNS label as "podbay".
        name: One of `SERVICES`, or "client/NAME".
    """

    installation: str
    name: str

    @property
    def is_service(self) -> bool:
        """Whether this is a service of the installation."""
        return self.name in SERVICES

    @property
    def uri(self) -> str:
        """The form in certificates, as "podbay://podbay/registry"."""
        return f"{_SCHEME}{self.installation}/{self.name}"


def check_installation(name: str) -> str:
    """Return the name of an installation, or of a client, if it can be in a certificate.

    Raises:
        ValueError: It is no DNS label.
    """
    if _LABEL.fullmatch(name) is None:
        raise ValueError(
            f"{name[:80]!r} is no name: up to 63 lower-case letters, digits and hyphens, a letter "
            "or digit first and last"
        )
    return name


def parse_identity(uri: str) -> Identity | None:
    """Return the identity of a URI; None where it is none."""
    if not uri.startswith(_SCHEME):
        return None
    installation, _, name = uri.removeprefix(_SCHEME).partition("/")
    label = name.removeprefix("client/")
    if _LABEL.fullmatch(installation) is None or _LABEL.fullmatch(label) is None:
        return None
    if label == name and name not in SERVICES:
        return None
    return Identity(installation, name)


def service_dns(installation: str, service: str) -> str:
    """Return the name that only the certificate of one service has."""
    return f"{service}.{installation}.{_DOMAIN}"


def installation_dns(installation: str) -> str:
    """Return the name that the certificates of all services have, for clients behind tunnels."""
    return f"{installation}.{_DOMAIN}"
