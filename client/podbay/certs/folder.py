"""The certificates of an installation as files.

    DIR/ca.crt, DIR/ca.key        the authority; ca.crt may hold an older one, too
    DIR/registry/                 tls.crt, tls.key, ca.crt: what the registry gets with --tls
    DIR/session-manager/ ...      likewise for the others
    DIR/client-NAME/              likewise for clients with certificates

Keys are readable by their owner only. Each file is written at once and whole, a key before its
certificate: a service that looks in between sees that they do not fit, and keeps what it has.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from podbay.certs.issuing import (
    AUTHORITY_DAYS,
    CERTIFICATE_DAYS,
    Authority,
    Certificate,
    describe,
    is_due,
    issue,
    issued_by,
    key_of,
    key_pem,
    make_authority,
)
from podbay.local.faults import LocalError
from podbay.schema.identities import (
    SERVICES,
    Identity,
    check_installation,
    installation_dns,
    service_dns,
)

__all__ = ["LOCAL_NAMES", "CertificateFolder", "Entry"]

LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")
"""The names that every service's certificate has: tunnels end there, and `podbay up` runs there."""

CA_FILE: Final = "ca.crt"
CERT_FILE: Final = "tls.crt"
KEY_FILE: Final = "tls.key"
_CLIENT: Final = "client-"


@dataclass(frozen=True, slots=True)
class Entry:
    """A certificate and where it lies.

    Attributes:
        folder: The folder of the certificate, its key and the authority; of an authority, DIR.
        certificate: What it says.
        due: Whether `renew` would replace it.
    """

    folder: Path
    certificate: Certificate
    due: bool


class CertificateFolder:
    """The certificates of an installation.

    Args:
        path: The folder.
        ca_key: Where the authority's private key is; in the folder unless given.
    """

    def __init__(self, path: Path, ca_key: Path | None = None) -> None:
        self.path = path.expanduser().absolute()
        self.ca_file = self.path / CA_FILE
        self.ca_key_file = ca_key or self.path / "ca.key"

    def exists(self) -> bool:
        """Whether there is an authority."""
        return self.ca_file.exists()

    def init(self, installation: str, now: datetime, *, days: int = AUTHORITY_DAYS) -> Entry:
        """Make the authority of an installation.

        Args:
            installation: The installation's name, a DNS label.
            now: The time.
            days: How long the authority is valid.

        Raises:
            LocalError: There is one already, or the name or the folder cannot be used.
        """
        for there in (self.ca_file, self.ca_key_file):
            if there.exists():
                raise LocalError(
                    "CERTIFICATES_EXIST",
                    f"there is an authority already: {there}",
                    way_out="issue certificates with it (podbay certs issue), replace it "
                    "(podbay certs renew --authority), or choose another folder",
                )
        try:
            check_installation(installation)
        except ValueError as error:
            raise _refused(str(error)) from error
        authority = make_authority(installation, days, now)
        _write(self.ca_key_file, key_pem(authority.key), private=True)
        _write(self.ca_file, _pem(authority.certificate))
        return Entry(self.path, describe(authority.certificate), due=False)

    def issue(
        self, name: str, names: Sequence[str], now: datetime, *, days: int = CERTIFICATE_DAYS
    ) -> Entry:
        """Issue a certificate, or another one in place of an earlier one.

        Args:
            name: A service, or "client/NAME".
            names: DNS names and IP addresses under which a service is reached, beside those of
                this machine.
            now: The time.
            days: How long it is valid.

        Raises:
            LocalError: There is no authority, or a name cannot be used.
        """
        label = name.removeprefix("client/")
        if name not in SERVICES:
            if label == name:
                raise _refused(
                    f"{name!r} is neither a service ({', '.join(SERVICES)}) nor client/NAME"
                )
            try:
                check_installation(label)
            except ValueError as error:
                raise _refused(str(error)) from error
        bundle = self._bundle()
        identity = Identity(describe(bundle[0]).installation, name)
        own = LOCAL_NAMES if identity.is_service else ()
        return self._issue(bundle, identity, [*own, *names], days, now)

    def ensure(self, installation: str, names: Sequence[str], now: datetime) -> list[Entry]:
        """Make what is missing for the services, and renew what is due; nothing otherwise.

        Args:
            installation: The installation's name, where there is no authority yet.
            names: DNS names and IP addresses under which all services are reached.
            now: The time.

        Returns:
            What was made or renewed.

        Raises:
            LocalError: A file cannot be read or written, or a name cannot be used.
        """
        made = [] if self.exists() else [self.init(installation, now)]
        there = {entry.folder: entry for entry in self.show(now)}
        for name in SERVICES:
            entry = there.get(self.folder_of(name))
            if entry is None or not set(names) <= set(entry.certificate.names):
                made.append(self.issue(name, names, now))
        return [*made, *self.renew(now)]

    def renew(self, now: datetime, *, everything: bool = False) -> list[Entry]:
        """Replace certificates that end soon, or are not of the present authority.

        Each keeps its identity, its names and the length of its life, and gets a new key.

        Args:
            now: The time.
            everything: Whether to replace the others, too.

        Returns:
            The new ones.

        Raises:
            LocalError: There is no authority, or a file is damaged.
        """
        bundle = self._bundle()
        self._distribute(bundle)
        renewed = []
        for folder in self._folders():
            certificate = _read_all(folder / CERT_FILE)[0]
            said = describe(certificate)
            if said.identity is None:
                continue
            if not (everything or self._is_due(certificate, bundle, now)):
                continue
            life = said.expires - said.begins
            names = [name for name in said.names if name not in _own_names(said.identity)]
            renewed.append(
                self._issue(
                    bundle, said.identity, names, max(1, round(life.total_seconds() / 86400)), now
                )
            )
        return renewed

    def renew_authority(self, now: datetime, *, days: int = AUTHORITY_DAYS) -> Entry:
        """Make a new authority beside the old one, which goes on being trusted.

        Nothing is issued: everybody must know the new authority before it is used.

        Raises:
            LocalError: There is no authority, or its file is damaged.
        """
        bundle = self._bundle()
        authority = make_authority(describe(bundle[0]).installation, days, now)
        # First what is trusted, then what signs: broken off in between, `issue` says what is wrong.
        bundle = [authority.certificate, *bundle]
        _write(self.ca_file, b"".join(map(_pem, bundle)))
        _write(self.ca_key_file, key_pem(authority.key), private=True)
        self._distribute(bundle)
        return Entry(self.path, describe(authority.certificate), due=False)

    def forget_old_authorities(self) -> list[Certificate]:
        """Trust the present authority only; returns those that are trusted no more.

        Raises:
            LocalError: A certificate in the folder is still of another one.
        """
        bundle = self._bundle()
        for folder in self._folders():
            if not issued_by(_read_all(folder / CERT_FILE)[0], bundle[0]):
                raise LocalError(
                    "CERTIFICATES_OLD",
                    f"the certificate in {folder} is of an old authority, and would no longer be "
                    "trusted",
                    way_out="first replace it: podbay certs renew",
                )
        _write(self.ca_file, _pem(bundle[0]))
        self._distribute(bundle[:1])
        return [describe(one) for one in bundle[1:]]

    def show(self, now: datetime) -> list[Entry]:
        """Return all authorities and certificates, the present authority first.

        Raises:
            LocalError: There is no authority, or a file is damaged.
        """
        bundle = self._bundle()
        shown = [Entry(self.path, describe(one), is_due(one, now)) for one in bundle]
        for folder in self._folders():
            certificate = _read_all(folder / CERT_FILE)[0]
            due = self._is_due(certificate, bundle, now)
            shown.append(Entry(folder, describe(certificate), due))
        return shown

    def folder_of(self, name: str) -> Path:
        """Return the folder of a service's or client's certificate, which a service takes."""
        return self.path / name.replace("/", "-")

    def _issue(
        self,
        bundle: Sequence[x509.Certificate],
        identity: Identity,
        names: Sequence[str],
        days: int,
        now: datetime,
    ) -> Entry:
        if bundle[0].not_valid_after_utc <= now:
            raise LocalError(
                "AUTHORITY_EXPIRED",
                f"the authority in {self.ca_file} has expired",
                way_out="make another: podbay certs renew --authority",
            )
        try:
            made = issue(Authority(self._key(bundle[0]), bundle[0]), identity, names, days, now)
        except ValueError as error:
            raise _refused(str(error)) from error
        folder = self.folder_of(identity.name)
        _write(folder / CA_FILE, b"".join(map(_pem, bundle)))
        _write(folder / KEY_FILE, made.key, private=True)
        _write(folder / CERT_FILE, made.certificate)
        return Entry(folder, describe(x509.load_pem_x509_certificate(made.certificate)), due=False)

    def _is_due(
        self, certificate: x509.Certificate, bundle: Sequence[x509.Certificate], now: datetime
    ) -> bool:
        return is_due(certificate, now) or not issued_by(certificate, bundle[0])

    def _bundle(self) -> list[x509.Certificate]:
        if not self.exists():
            raise LocalError(
                "CERTIFICATES_NOT_FOUND",
                f"there is no authority in {self.path}",
                way_out=f"make one: podbay certs init {self.path}",
            )
        return _read_all(self.ca_file)

    def _key(self, authority: x509.Certificate) -> ec.EllipticCurvePrivateKey:
        try:
            key = key_of(self.ca_key_file.read_bytes())
        except OSError as error:
            raise LocalError(
                "AUTHORITY_KEY_NOT_READABLE",
                f"the authority's key {self.ca_key_file} cannot be read: {error.strerror}",
                way_out="say where it is: --ca-key FILE",
            ) from error
        except ValueError as error:
            raise _damaged(self.ca_key_file, str(error)) from error
        if key.public_key() != authority.public_key():
            raise LocalError(
                "AUTHORITY_KEY_MISMATCH",
                f"the key {self.ca_key_file} is not that of the first authority in {self.ca_file}",
                way_out="say where its key is: --ca-key FILE",
            )
        return key

    def _folders(self) -> list[Path]:
        try:
            inside = sorted(self.path.iterdir())
        except OSError as error:
            raise _damaged(self.path, error.strerror or "") from error
        known = [self.path / name for name in SERVICES]
        clients = [one for one in inside if one.name.startswith(_CLIENT)]
        return [one for one in (*known, *clients) if (one / CERT_FILE).exists()]

    def _distribute(self, bundle: Sequence[x509.Certificate]) -> None:
        """Write what is trusted beside each certificate, where it is not there yet."""
        wanted = b"".join(map(_pem, bundle))
        for folder in self._folders():
            file = folder / CA_FILE
            if not file.exists() or file.read_bytes() != wanted:
                _write(file, wanted)


def _own_names(identity: Identity) -> tuple[str, ...]:
    if not identity.is_service:
        return ()
    return (
        service_dns(identity.installation, identity.name),
        installation_dns(identity.installation),
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _read_all(file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as error:
        raise _damaged(file, error.strerror or "") from error
    except ValueError as error:
        raise _damaged(file, "it holds no certificates in PEM") from error


def _write(file: Path, content: bytes, *, private: bool = False) -> None:
    try:
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(handle, "wb") as opened:
                os.fchmod(handle, 0o600 if private else 0o644)
                opened.write(content)
                opened.flush()
                os.fsync(handle)
            Path(temporary).replace(file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise LocalError(
            "CERTIFICATES_NOT_WRITABLE",
            f"{file} cannot be written: {error.strerror}",
            way_out="choose another folder, or write as another user",
        ) from error


def _refused(text: str) -> LocalError:
    return LocalError("CERTIFICATE_REFUSED", text)


def _damaged(file: Path, why: str) -> LocalError:
    return LocalError(
        "CERTIFICATES_NOT_READABLE",
        f"{file} cannot be used: {why}",
        way_out="bring it back from where it is kept, or make new ones in another folder",
    )
