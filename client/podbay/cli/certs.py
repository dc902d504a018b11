"""`podbay certs`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from podbay.cli.invocation import Invocation, json_option, pass_invocation
from podbay.cli.lazy import Noun
from podbay.cli.output import table, write_json

if TYPE_CHECKING:
    from podbay.certs import CertificateFolder, Entry

__all__ = ["certs"]

_DIR = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
_CA_KEY = click.option(
    "--ca-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the authority's private key is, if it is kept elsewhere than in DIR/ca.key.",
)
_NAMES = click.option(
    "--name",
    "names",
    multiple=True,
    metavar="DNS-NAME|ADDRESS",
    help="A name or address under which the service is reached, beside localhost; may be repeated.",
)
_INSTALLATION = click.option(
    "--installation",
    default="podbay",
    show_default=True,
    help="The installation's name; every identity begins with it.",
)
_DAYS = click.IntRange(1, 36500)


@click.group(cls=Noun)
def certs() -> None:
    """Certificates for TLS: an installation's authority, and what it issues.

    DIR holds the authority (ca.crt, ca.key) and a folder for each service, which the service gets
    with --tls DIR/SERVICE. Clients need ca.crt.
    """


@certs.command()
@_DIR
@_INSTALLATION
@click.option("--days", type=_DAYS, default=3650, show_default=True, help="How long it is valid.")
@_CA_KEY
@json_option
@pass_invocation
def init(
    invocation: Invocation, folder: Path, installation: str, days: int, ca_key: Path | None
) -> None:
    """Make the authority of an installation."""
    made = _folder(folder, ca_key).init(installation, _now(), days=days)
    _show(invocation, [made])


@certs.command()
@_DIR
@click.argument("who", nargs=-1, metavar="[SERVICE|client/NAME]...")
@_NAMES
@click.option("--days", type=_DAYS, default=365, show_default=True, help="How long it is valid.")
@_CA_KEY
@json_option
@pass_invocation
def issue(
    invocation: Invocation,
    folder: Path,
    who: tuple[str, ...],
    names: tuple[str, ...],
    days: int,
    ca_key: Path | None,
) -> None:
    """Issue certificates: for the three services, or for those that are named.

    A certificate for client/NAME lets a program in where a service demands one.
    """
    from podbay.schema.identities import SERVICES  # noqa: PLC0415 # takes long

    made = _folder(folder, ca_key)
    now = _now()
    _show(invocation, [made.issue(name, names, now, days=days) for name in who or SERVICES])


@certs.command()
@_DIR
@_INSTALLATION
@_NAMES
@_CA_KEY
@json_option
@pass_invocation
def ensure(
    invocation: Invocation,
    folder: Path,
    installation: str,
    names: tuple[str, ...],
    ca_key: Path | None,
) -> None:
    """Make what is missing and renew what is due; for scripts, which may run it at any time."""
    made = _folder(folder, ca_key).ensure(installation, names, _now())
    _show(invocation, made, empty="nothing is missing or due")


@certs.command()
@_DIR
@click.option("--all", "everything", is_flag=True, help="Those that are not due, too.")
@click.option(
    "--authority",
    is_flag=True,
    help="Make a new authority beside the old one, and issue nothing yet: first all clients and "
    "services must have the new ca.crt.",
)
@click.option(
    "--forget-old",
    is_flag=True,
    help="Trust old authorities no longer; all certificates must be of the present one.",
)
@_CA_KEY
@json_option
@pass_invocation
def renew(
    invocation: Invocation,
    folder: Path,
    *,
    everything: bool,
    authority: bool,
    forget_old: bool,
    ca_key: Path | None,
) -> None:
    """Replace certificates that have less than a third of their life left.

    Services take them without a restart. To replace the authority: --authority, hand out ca.crt,
    renew, --forget-old, hand out ca.crt.
    """
    if everything + authority + forget_old > 1:
        raise click.UsageError("--all, --authority and --forget-old are steps of their own")
    made = _folder(folder, ca_key)
    if authority:
        _show(invocation, [made.renew_authority(_now())])
    elif forget_old:
        gone = made.forget_old_authorities()
        _show(invocation, made.show(_now()))
        if not invocation.json:
            click.echo(f"authorities that are trusted no more: {len(gone)}", err=True)
    else:
        renewed = made.renew(_now(), everything=everything)
        _show(invocation, renewed, empty="no certificate is due")


@certs.command()
@_DIR
@json_option
@pass_invocation
def show(invocation: Invocation, folder: Path) -> None:
    """Show who has a certificate, under which names, and until when."""
    _show(invocation, _folder(folder, None).show(_now()))


def _folder(folder: Path, ca_key: Path | None) -> CertificateFolder:
    try:
        from podbay.certs import CertificateFolder  # noqa: PLC0415 # takes long
    except ImportError as error:
        raise click.ClickException(
            "this installation holds the client only, and certificates need cryptography: "
            "pip install 'podbay[local]'"
        ) from error
    return CertificateFolder(folder, ca_key)


def _now() -> datetime:
    return datetime.now(UTC)


def _json(entry: Entry) -> dict[str, Any]:
    said = entry.certificate
    return {
        "identity": said.identity.uri if said.identity else None,
        "authority": said.authority,
        "installation": said.installation,
        "subject": said.subject,
        "names": list(said.names),
        "begins": said.begins,
        "expires": said.expires,
        "due": entry.due,
        "fingerprint": said.fingerprint,
        "folder": str(entry.folder),
    }


def _show(invocation: Invocation, entries: Sequence[Entry], *, empty: str = "") -> None:
    if invocation.json:
        write_json([_json(entry) for entry in entries])
        return
    rows = []
    for entry in entries:
        said = entry.certificate
        who = said.identity.uri if said.identity else f"authority of {said.installation}"
        until = f"{said.expires:%Y-%m-%d %H:%M}Z" + (" (due)" if entry.due else "")
        rows.append((who, until, str(entry.folder), ", ".join(said.names)))
    table(("WHO", "UNTIL", "FOLDER", "NAMES"), rows, empty=empty)
