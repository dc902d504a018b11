"""How a client speaks to services: TLS, or plain text, and what to say where the two do not fit."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from podbay._core.wire_errors import invalid
from podbay.errors import InvalidRequestError, PodbayError, error_for

__all__ = [
    "CA_FILE_VARIABLE",
    "CERT_FILE_VARIABLE",
    "INSECURE_VARIABLE",
    "KEY_FILE_VARIABLE",
    "SERVER_NAME_VARIABLE",
    "TlsSettings",
    "certificate_rejected",
    "client_certificate_refused",
    "file_error",
    "is_loopback",
    "is_on",
    "plain_text_refused",
    "speaks_plain_text",
    "speaks_tls",
    "split_address",
]

CA_FILE_VARIABLE: Final = "PODBAY_API_CA_FILE"
CERT_FILE_VARIABLE: Final = "PODBAY_API_CLIENT_CERT_FILE"
KEY_FILE_VARIABLE: Final = "PODBAY_API_CLIENT_KEY_FILE"
SERVER_NAME_VARIABLE: Final = "PODBAY_API_SERVER_NAME"
INSECURE_VARIABLE: Final = "PODBAY_API_INSECURE"

FilePath = str | os.PathLike[str]

# By the number with which OpenSSL says why it does not take a certificate.
_PROBLEMS: Final[Mapping[int, tuple[str, str]]] = {
    9: ("not-yet-valid", "is not valid yet; is a clock wrong?"),
    10: ("expired", "has expired. Renew it where the service runs: podbay certs renew"),
    18: ("unknown-authority", "vouches for itself"),
    19: ("unknown-authority", "is of an authority that this client does not know"),
    20: ("unknown-authority", "is of an authority that this client does not know"),
    21: ("unknown-authority", "is of an authority that this client does not know"),
    62: ("other-name", "is for another name"),
    64: ("other-name", "is for another address"),
}
_WAYS_OUT: Final[Mapping[str, str]] = {
    "unknown-authority": f"Give the authority's ca.crt: ca_file=..., or {CA_FILE_VARIABLE}",
    "other-name": "Use an address that it names (podbay certs show), have it issued with the name "
    f"(podbay certs issue --name), or say which name to expect: server_name=..., or "
    f"{SERVER_NAME_VARIABLE}",
}


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How a client speaks to services.

    Attributes:
        enabled: Whether it speaks TLS.
        ca_file: The authorities that it believes; None for those of the system.
        cert_file: The certificate that it shows; None for none.
        key_file: That certificate's private key.
        server_name: The name that services' certificates must have; None for their addresses.
        insecure: Whether it may speak plain text with other machines.
    """

    enabled: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = None
    insecure: bool = False

    @classmethod
    def resolve(
        cls,
        *,
        ca_file: FilePath | None,
        client_cert_file: FilePath | None,
        client_key_file: FilePath | None,
        server_name: str | None,
        insecure: bool | None,
        scheme: bool,
        environment: Mapping[str, str],
    ) -> TlsSettings:
        """Fill what was not given from the environment.

        Args:
            ca_file: The authorities to believe.
            client_cert_file: The certificate to show.
            client_key_file: Its private key.
            server_name: The name that services' certificates must have.
            insecure: True for plain text, whatever the environment says; False to allow it
                nowhere but on this machine; None for what the environment says.
            scheme: Whether the endpoint's scheme asks for TLS.
            environment: The environment.

        Raises:
            InvalidRequestError: Settings contradict each other.
        """
        given = (ca_file, client_cert_file, client_key_file, server_name)
        if insecure:
            if scheme or any(given):
                raise _contradiction("insecure=True means plain text, and other settings mean TLS")
            return cls(insecure=True)
        if insecure is None and is_on(environment.get(INSECURE_VARIABLE)) and not any(given):
            if scheme or environment.get(CA_FILE_VARIABLE):
                raise _contradiction(
                    f"{INSECURE_VARIABLE} means plain text, and the endpoint or "
                    f"{CA_FILE_VARIABLE} means TLS"
                )
            return cls(insecure=True)
        ca = _path(ca_file or environment.get(CA_FILE_VARIABLE))
        cert = _path(client_cert_file or environment.get(CERT_FILE_VARIABLE))
        key = _path(client_key_file or environment.get(KEY_FILE_VARIABLE))
        if (cert is None) != (key is None):
            raise _contradiction("a client certificate and its private key belong together")
        enabled = scheme or ca is not None or cert is not None
        name = server_name or environment.get(SERVER_NAME_VARIABLE) or None
        if server_name and not enabled:
            raise _contradiction("server_name is about certificates: it needs ca_file or grpcs://")
        return cls(
            enabled=enabled,
            ca_file=ca,
            cert_file=cert,
            key_file=key,
            server_name=name if enabled else None,
        )


def is_on(text: str | None) -> bool:
    """Whether the value of a variable means yes: "1" or "true"."""
    return (text or "").strip().lower() in ("1", "true")


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of "host:port" or "[v6]:port"."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """Whether a "host:port" is on this machine for sure."""
    host, _ = split_address(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def plain_text_refused(address: str) -> PodbayError:
    """Return the error of a token that would travel in plain text to another machine."""
    return error_for(
        "PLAIN_TEXT_REFUSED",
        f"{address} may be another machine, and the client would send its token there in plain "
        f"text. Where the service speaks TLS, give its authority's certificate (ca_file=..., or "
        f"{CA_FILE_VARIABLE}; or grpcs://{address} where a public authority vouches for it). "
        f"Plain text must be asked for by name: insecure=True, or {INSECURE_VARIABLE}=1.",
        metadata={"address": address},
        not_started=True,
    )


def certificate_rejected(address: str, code: int, detail: str, name: str) -> PodbayError:
    """Return the error of a service's certificate that is not believed.

    Args:
        address: Where the service is.
        code: Why, as OpenSSL's number.
        detail: Why, as OpenSSL says it.
        name: The name that was expected.
    """
    problem, text = _PROBLEMS.get(code, ("invalid", f"is not valid: {detail}"))
    if problem == "other-name":
        text += f", not for {name}"
    way_out = _WAYS_OUT.get(problem)
    return error_for(
        "TLS_CERTIFICATE_REJECTED",
        f"The certificate of the service at {address} {text}."
        + (f" {way_out}." if way_out else ""),
        metadata={"address": address, "problem": problem, "detail": detail[:200]},
        not_started=True,
    )


def speaks_plain_text(address: str) -> PodbayError:
    """Return the error of a service that speaks plain text to a client that speaks TLS."""
    return error_for(
        "TLS_MISMATCH",
        f"The service at {address} speaks plain text, and this client TLS. Start the service with "
        f"--tls, or leave TLS out: no ca_file or {CA_FILE_VARIABLE}, no grpcs://.",
        metadata={"address": address, "service": "plain text"},
        not_started=True,
    )


def speaks_tls(address: str) -> PodbayError:
    """Return the error of a service that speaks TLS to a client that speaks plain text."""
    return error_for(
        "TLS_MISMATCH",
        f"The service at {address} speaks TLS, and this client plain text. Give its authority's "
        f"certificate: ca_file=..., or {CA_FILE_VARIABLE}; grpcs://{address} where a public "
        "authority vouches for it.",
        metadata={"address": address, "service": "TLS"},
        not_started=True,
    )


def client_certificate_refused(address: str, *, shown: bool) -> PodbayError:
    """Return the error of a service that wants another certificate of the client.

    Args:
        address: Where the service is.
        shown: Whether the client has shown one.
    """
    what = (
        "does not take this client's certificate: it has expired, or is of an authority that the "
        "service does not know"
        if shown
        else "ends the connection of a client without a certificate"
    )
    return error_for(
        "TLS_CLIENT_CERTIFICATE_REFUSED",
        f"The service at {address} {what}. Have one issued (podbay certs issue DIR client/NAME) "
        f"and give it (client_cert_file=..., client_key_file=...; {CERT_FILE_VARIABLE}, "
        f"{KEY_FILE_VARIABLE}), or use the service's port for clients.",
        metadata={"address": address},
        not_started=True,
    )


def file_error(field: str, file: Path, why: str) -> InvalidRequestError:
    """Return the error of a file of certificates that cannot be used."""
    return invalid(field, f"{file} cannot be used: {why}", "The client")


def _contradiction(text: str) -> InvalidRequestError:
    return invalid("", text, "The client")


def _path(given: FilePath | None) -> Path | None:
    return Path(given).expanduser() if given else None
