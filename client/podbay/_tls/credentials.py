"""From a client's settings to what gRPC takes."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from podbay._core.tls import TlsSettings, file_error, is_loopback, plain_text_refused

__all__ = ["FilesState", "channel_credentials", "files_state", "tls_context"]

FilesState = tuple[tuple[int, int, int] | None, ...]
"""What tells one state of the files from another: of each its number, size and time."""


def channel_credentials(tls: TlsSettings, address: str) -> grpc.ChannelCredentials | None:
    """Return the credentials of a channel to an address; None for plain text.

    Raises:
        SecureConnectionError: The token would travel in plain text to another machine.
        InvalidRequestError: A file cannot be used.
    """
    if not tls.enabled:
        if not (tls.insecure or is_loopback(address)):
            raise plain_text_refused(address)
        return None
    # gRPC itself says of a file that it cannot use only that there is no connection.
    tls_context(tls)
    return grpc.ssl_channel_credentials(
        root_certificates=_read("ca_file", tls.ca_file),
        private_key=_read("client_key_file", tls.key_file),
        certificate_chain=_read("client_cert_file", tls.cert_file),
    )


def files_state(tls: TlsSettings) -> FilesState:
    """Return in which state the files of the settings are; cheap."""
    state: list[tuple[int, int, int] | None] = []
    for file in (tls.ca_file, tls.cert_file, tls.key_file):
        try:
            found = file.stat() if file is not None else None
        except OSError:
            found = None
        state.append((found.st_ino, found.st_size, found.st_mtime_ns) if found else None)
    return tuple(state)


def tls_context(tls: TlsSettings) -> ssl.SSLContext:
    """Return a context that believes and shows what the settings say.

    Raises:
        InvalidRequestError: A file cannot be used.
    """
    _read("ca_file", tls.ca_file)
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except (ssl.SSLError, OSError) as error:
        assert tls.ca_file is not None  # noqa: S101 # nothing is read otherwise
        raise file_error("ca_file", tls.ca_file, "it holds no certificates in PEM") from error
    context.set_alpn_protocols(["h2"])
    if tls.cert_file is not None:
        _read("client_cert_file", tls.cert_file)
        _read("client_key_file", tls.key_file)
        try:
            context.load_cert_chain(tls.cert_file, tls.key_file, password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            why = (
                f"{tls.key_file} is not its private key"
                if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH"
                else f"it and {tls.key_file} are no certificate and private key in PEM, without "
                "password"
            )
            raise file_error("client_cert_file", tls.cert_file, why) from error
    return context


def _no_password() -> str:
    # Without it OpenSSL would ask at the terminal.
    return ""


def _read(field: str, file: Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        return file.read_bytes()
    except OSError as error:
        raise file_error(field, file, error.strerror or type(error).__name__) from error
