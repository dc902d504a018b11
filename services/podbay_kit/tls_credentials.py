"""From certificates to what gRPC takes; renewed without a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    # What reads certificates is for who has some.
    from podbay_kit.tls_files import LiveTls, TlsMaterial

__all__ = ["channel_credentials", "server_credentials"]


def server_credentials(
    certificate: LiveTls, *, require_client_certificate: bool
) -> grpc.ServerCredentials:
    """Return the credentials of a server; each new connection gets the certificate of the moment.

    Args:
        certificate: The server's certificate.
        require_client_certificate: Whether clients must show a certificate of its authorities.
            Those of others are not looked at.
    """
    given = certificate.current()

    def changed() -> Any:
        # Called by gRPC for each handshake; None (which its types forget) for no change.
        nonlocal given
        current = certificate.current()
        if current is given:
            return None
        given = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given),
        changed,
        require_client_authentication=require_client_certificate,
    )


def channel_credentials(material: TlsMaterial) -> grpc.ChannelCredentials:
    """Return the credentials of a channel to another service of the installation."""
    return grpc.ssl_channel_credentials(
        root_certificates=material.authorities,
        private_key=material.key,
        certificate_chain=material.chain,
    )


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.chain)], root_certificates=material.authorities
    )
