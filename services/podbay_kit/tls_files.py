"""The certificate of a service as files: checked before use, and looked at again while it runs.

A folder as `podbay certs` makes it, or as Kubernetes mounts a secret of the type kubernetes.io/tls:
tls.crt (the certificate, and what is between it and its authority), tls.key, ca.crt (the
authorities that the others of the installation are believed by).
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from podbay.schema.identities import Identity, parse_identity
from podbay_kit.clock import Clock, SystemClock
from podbay_kit.errors import StartError

__all__ = ["LiveTls", "TlsError", "TlsMaterial", "load_tls"]

_LOG = logging.getLogger(__name__)

CERT_FILE: Final = "tls.crt"
KEY_FILE: Final = "tls.key"
CA_FILE: Final = "ca.crt"
_FILES: Final = (CERT_FILE, KEY_FILE, CA_FILE)
_OPEN_TO_OTHERS: Final = 0o007
_NEAR_DAYS: Final = 14
_TOLD_SECONDS: Final = 24 * 3600.0

# What tells one state of the files from another: for each file its number, size and time.
Signature = tuple[tuple[int, int, int] | None, ...]


class TlsError(StartError):
    """A certificate, its key or its authority cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """A certificate that is ready for use.

    Attributes:
        chain: The certificate and what is between it and its authority, as PEM.
        key: Its private key, as PEM.
        authorities: Whose certificates are believed, as PEM.
        identity: Whose certificate it is.
        expires: Until when it is valid.
    """

    chain: bytes
    key: bytes = field(repr=False)
    authorities: bytes
    identity: Identity
    expires: datetime

    def __repr__(self) -> str:
        return f"TlsMaterial({self.identity.uri}, until {self.expires:%Y-%m-%d})"


def load_tls(folder: Path, service: str, now: datetime) -> TlsMaterial:
    """Read the certificate of a service, and check that it can be used.

    Args:
        folder: Where tls.crt, tls.key and ca.crt are.
        service: Whose certificate it must be, as "registry".
        now: The time.

    Raises:
        TlsError: A file cannot be read, the key is open to others or of another certificate, the
            certificate is not valid now, of another authority or for somebody else.
    """
    chain_pem, key_pem, ca_pem = (_read(folder / name) for name in _FILES)
    chain = _certificates(folder / CERT_FILE, chain_pem)
    authorities = _certificates(folder / CA_FILE, ca_pem)
    leaf = chain[0]
    _check_key(folder, leaf, key_pem)
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        when = (
            f"has expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M}Z"
            if now > leaf.not_valid_after_utc
            else f"is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M}Z"
        )
        raise TlsError(
            f"The certificate {folder / CERT_FILE} {when}. Renew it: podbay certs renew; or is the "
            "clock of this machine wrong?"
        )
    if not _is_chain(chain, authorities):
        raise TlsError(
            f"The certificate {folder / CERT_FILE} is of none of the authorities in "
            f"{folder / CA_FILE}. Both must be of the same installation: podbay certs show."
        )
    identity = _identity(leaf)
    if identity is None or identity.name != service:
        said = f"is for {identity.uri}" if identity else "names no identity (podbay://…)"
        raise TlsError(
            f"The certificate {folder / CERT_FILE} {said}, and this is the {service}. Give it the "
            f"folder of its own: podbay certs issue DIR {service}."
        )
    return TlsMaterial(chain_pem, key_pem, ca_pem, identity, leaf.not_valid_after_utc)


class LiveTls:
    """The certificate of a service, which may be replaced while the service runs.

    Whoever uses it asks each time. What cannot be used is not taken: the former goes on, and the
    log says why. Safe for threads: gRPC asks from its own.

    Args:
        folder: Where tls.crt, tls.key and ca.crt are.
        service: Whose certificate it must be, as "registry".
        clock: Where the time comes from.

    Raises:
        TlsError: It cannot be used now.
    """

    def __init__(self, folder: Path, service: str, clock: Clock | None = None) -> None:
        self._folder = folder
        self._service = service
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._told_at = 0.0
        self._seen = self._signature()
        self._current = load_tls(folder, service, self._clock.now())
        self._tell("uses")

    @property
    def identity(self) -> Identity:
        """Whose certificate it is."""
        return self._current.identity

    def current(self) -> TlsMaterial:
        """Return the certificate; another object once there is a new one."""
        with self._lock:
            found = self._signature()
            if found != self._seen:
                # Also where it fails: what is still being written changes once more.
                self._seen = found
                self._take()
            elif self._days_left() < _NEAR_DAYS and self._told_before(_TOLD_SECONDS):
                self._tell("still uses")
            return self._current

    def _take(self) -> None:
        try:
            new = load_tls(self._folder, self._service, self._clock.now())
        except TlsError as error:
            _LOG.warning("the certificate that is in use stays: %s", error)
            return
        if new.identity.installation != self._current.identity.installation:
            _LOG.warning(
                "the certificate that is in use stays: %s is now for the installation %s; restart "
                "the service to move it there",
                self._folder,
                new.identity.installation,
            )
            return
        if new != self._current:
            self._current = new
            self._tell("has taken")

    def _days_left(self) -> int:
        return (self._current.expires - self._clock.now()).days

    def _told_before(self, seconds: float) -> bool:
        return self._clock.monotonic() - self._told_at > seconds

    def _tell(self, what: str) -> None:
        current, left = self._current, self._days_left()
        self._told_at = self._clock.monotonic()
        log = _LOG.warning if left < _NEAR_DAYS else _LOG.info
        log(
            "this service %s the certificate of %s in %s, valid until %s (%d days)",
            what,
            current.identity.uri,
            self._folder,
            f"{current.expires:%Y-%m-%d %H:%M}Z",
            left,
        )

    def _signature(self) -> Signature:
        found: list[tuple[int, int, int] | None] = []
        for name in _FILES:
            try:
                stat = (self._folder / name).stat()
            except OSError:
                found.append(None)
            else:
                found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return tuple(found)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise TlsError(
            f"The file {file} cannot be read: {error.strerror}. --tls names a folder with "
            f"{', '.join(_FILES)}; podbay certs makes one for each service."
        ) from error


def _certificates(file: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise TlsError(f"The file {file} holds no certificates in PEM.") from error


def _check_key(folder: Path, leaf: x509.Certificate, pem: bytes) -> None:
    file = folder / KEY_FILE
    if file.stat().st_mode & _OPEN_TO_OTHERS:
        raise TlsError(f"The key {file} is open to everybody. Mend it: chmod 600 {file}")
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError as error:
        raise TlsError(f"The key {file} is protected by a password; give it without.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TlsError(f"The file {file} holds no private key in PEM.") from error
    if key.public_key() != leaf.public_key():
        raise TlsError(
            f"The key {file} does not belong to the certificate {folder / CERT_FILE}. Issue both "
            "again: podbay certs issue."
        )


def _is_chain(chain: list[x509.Certificate], authorities: list[x509.Certificate]) -> bool:
    """Whether each certificate is issued by the next, and the last by an authority."""
    return all(_is_issued(one, following) for one, following in pairwise(chain)) and any(
        _is_issued(chain[-1], authority) for authority in authorities
    )


def _is_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _identity(leaf: x509.Certificate) -> Identity | None:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    found = [
        parse_identity(uri) for uri in names.get_values_for_type(x509.UniformResourceIdentifier)
    ]
    known = [identity for identity in found if identity is not None]
    # Two would leave open who it is.
    return known[0] if len(known) == 1 else None
