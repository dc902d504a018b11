"""Why there is no connection to a service: a look at what it speaks and shows.

gRPC says of all that goes wrong with TLS that the service is unavailable, in words that differ
between its versions. So the client looks for itself, once there is no connection.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Final

from podbay._core.tls import (
    TlsSettings,
    certificate_rejected,
    client_certificate_refused,
    speaks_plain_text,
    speaks_tls,
    split_address,
)
from podbay._tls.credentials import tls_context
from podbay.errors import InvalidRequestError, PodbayError

__all__ = ["look"]

_SECONDS: Final = 2.0
# How an HTTP/2 client begins: what it speaks, and empty settings. A server answers with its own.
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
# What a TLS client hears of one that speaks something else.
_NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"})


def look(tls: TlsSettings, address: str, *, last: bool) -> PodbayError | None:
    """Return what keeps TLS from working at an address; None where it is something else.

    Args:
        tls: How the client speaks.
        address: Where the service is.
        last: Whether this is the last look, before the client gives up: only then is a connection
            that ends without a word taken for a refusal, as it may be a service that starts.
    """
    try:
        with socket.create_connection(split_address(address), _SECONDS) as plain:
            plain.settimeout(_SECONDS)
            if tls.enabled:
                return _look_encrypted(tls, address, plain, last)
            return _look_plain(plain, address)
    except (OSError, InvalidRequestError):
        return None


def _look_plain(plain: socket.socket, address: str) -> PodbayError | None:
    """Whether what answers a client that speaks plain text speaks TLS."""
    # Nothing is sent: whose certificate it is does not matter.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with contextlib.suppress(ssl.SSLError), context.wrap_socket(plain):
        return speaks_tls(address)
    return None


def _look_encrypted(
    tls: TlsSettings, address: str, plain: socket.socket, last: bool
) -> PodbayError | None:
    name = tls.server_name or split_address(address)[0]
    try:
        secure = tls_context(tls).wrap_socket(plain, server_hostname=name)
    except ssl.SSLCertVerificationError as error:
        return certificate_rejected(address, error.verify_code, error.verify_message, name)
    except ssl.SSLError as error:
        return speaks_plain_text(address) if error.reason in _NOT_TLS else None
    with secure:
        try:
            # A server that wants another certificate says so only now.
            secure.sendall(_PREFACE)
            answered = secure.recv(1) != b""
        except ssl.SSLError:
            return client_certificate_refused(address, shown=tls.cert_file is not None)
        except TimeoutError:
            return None
        except OSError:
            answered = False
    if answered or not last:
        return None
    return client_certificate_refused(address, shown=tls.cert_file is not None)
