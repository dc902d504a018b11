"""How a service speaks to others: TLS, or plain text within this machine."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from podbay_kit.process import SettingsError, listen_address, read_secret
from podbay_kit.starting import join_address, split_address

if TYPE_CHECKING:
    from podbay_kit.serving import ServerTls
    from podbay_kit.tls_files import LiveTls

__all__ = ["Transport", "is_loopback", "transport_of", "transport_options"]


@dataclass(frozen=True, slots=True)
class Transport:
    """What a service proves itself by, and speaks through.

    Attributes:
        tls: How its server speaks TLS; None for plain text.
        service_token: The secret that the services share; None where certificates say who calls.
    """

    tls: ServerTls | None
    service_token: str | None = field(repr=False)

    @property
    def certificate(self) -> LiveTls | None:
        """The service's certificate; None for plain text."""
        return self.tls.certificate if self.tls else None

    def service_address(self) -> str | None:
        """Return where other services connect, once the server listens; None where nowhere."""
        if self.tls is None or self.tls.service_listen is None or self.tls.service_port is None:
            return None
        return join_address(split_address(self.tls.service_listen)[0], self.tls.service_port)


def transport_options(parser: argparse.ArgumentParser, *, service_port: int | None) -> None:
    """Add the options about TLS and who may call.

    Args:
        parser: Gets them.
        service_port: Where other services connect by default; None where none do.
    """
    group = parser.add_argument_group("TLS")
    group.add_argument(
        "--tls",
        type=Path,
        metavar="DIR",
        help="speak TLS, with the certificate in this folder (tls.crt, tls.key, ca.crt; podbay "
        "certs makes one for each service); it is looked at again for each connection",
    )
    if service_port is not None:
        group.add_argument(
            "--service-listen",
            type=listen_address,
            metavar="HOST:PORT",
            help="with --tls: where other services connect, each with its certificate (default: "
            f"the host of --listen, port {service_port})",
        )
        parser.set_defaults(service_port=service_port)
    group.add_argument(
        "--require-client-certificates",
        action="store_true",
        help="with --tls: let in only clients with a certificate of the installation, beside "
        "their token",
    )
    group.add_argument(
        "--service-token-file",
        type=Path,
        metavar="FILE",
        help="without --tls: the secret that the services of the installation share; readable by "
        "its owner only",
    )
    group.add_argument(
        "--allow-plain-text-off-loopback",
        action="store_true",
        help="without --tls: speak plain text, tokens included, also with other machines",
    )


def is_loopback(address: str) -> bool:
    """Whether only this machine has a "host:port"."""
    host, _ = split_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def transport_of(
    options: argparse.Namespace, service: str, *, peers: Sequence[str] = ()
) -> Transport:
    """Return how a service speaks, as its options say.

    Args:
        options: The command line.
        service: Which service this is, as "registry".
        peers: The addresses of other services that it calls.

    Raises:
        SettingsError: Options do not fit, or plain text would leave this machine.
        TlsError: The certificate cannot be used.
    """
    if options.tls is not None:
        if options.service_token_file is not None:
            raise SettingsError(
                "With --tls certificates say who calls, and no service token is taken: leave out "
                "--service-token-file."
            )
        # Who speaks plain text, as to watch workers, needs none of this.
        from podbay_kit.serving import ServerTls  # noqa: PLC0415 # heavy
        from podbay_kit.tls_files import LiveTls  # noqa: PLC0415 # as above

        certificate = LiveTls(options.tls, service)
        return Transport(
            ServerTls(
                certificate,
                service_listen=_service_listen(options),
                require_client_certificates=options.require_client_certificates,
            ),
            service_token=None,
        )
    for name in ("service_listen", "require_client_certificates"):
        if getattr(options, name, None):
            raise SettingsError(f"--{name.replace('_', '-')} needs --tls.")
    if options.service_token_file is None:
        raise SettingsError("Give --tls DIR, or --service-token-file FILE for plain text.")
    if not options.allow_plain_text_off_loopback:
        _refuse_plain_text(options.listen, peers)
    return Transport(None, read_secret(options.service_token_file))


def _service_listen(options: argparse.Namespace) -> str | None:
    port: int | None = getattr(options, "service_port", None)
    if port is None:
        return None
    given: str | None = options.service_listen
    return given or join_address(split_address(options.listen)[0], port)


def _refuse_plain_text(listen: str, peers: Sequence[str]) -> None:
    way_out = (
        "Use certificates (--tls DIR; podbay certs makes them), or allow it by name: "
        "--allow-plain-text-off-loopback."
    )
    if not is_loopback(listen):
        raise SettingsError(
            f"{listen} can be reached from other machines, and without --tls tokens and all data "
            f"would travel there in plain text. Listen on 127.0.0.1. {way_out}"
        )
    for peer in peers:
        if not is_loopback(peer):
            raise SettingsError(
                f"{peer} may be another machine, and without --tls the service token would travel "
                f"there in plain text. {way_out}"
            )
