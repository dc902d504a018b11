"""Making certificates: keys, names and times in, certificates out. Does no I/O, has no clock."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from podbay.schema.identities import Identity, installation_dns, parse_identity, service_dns

__all__ = [
    "AUTHORITY_DAYS",
    "CERTIFICATE_DAYS",
    "Authority",
    "Certificate",
    "Issued",
    "describe",
    "is_due",
    "issue",
    "issued_by",
    "key_of",
    "key_pem",
    "make_authority",
]

AUTHORITY_DAYS: Final = 3650
CERTIFICATE_DAYS: Final = 365
# A machine whose clock is a little behind takes a new certificate, too.
_BACKDATED: Final = timedelta(minutes=5)
# What renew replaces: certificates that have less than this part of their life before them.
_DUE: Final = 1 / 3


@dataclass(frozen=True, slots=True)
class Authority:
    """The authority of an installation, with what it signs with.

    Attributes:
        key: Its private key.
        certificate: Its certificate.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class Issued:
    """A new certificate and its private key, both as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says.

    Attributes:
        identity: Whose it is; None for an authority, or a certificate of another kind.
        installation: The installation's name; empty for a certificate of another kind.
        subject: The common name.
        names: DNS names and IP addresses under which it may be reached.
        begins: From when it is valid.
        expires: Until when it is valid.
        authority: Whether others can be issued with it.
        fingerprint: The SHA-256 of the whole, in hexadecimal.
    """

    identity: Identity | None
    installation: str
    subject: str
    names: tuple[str, ...]
    begins: datetime
    expires: datetime
    authority: bool
    fingerprint: str


def make_authority(installation: str, days: int, now: datetime) -> Authority:
    """Return a new authority (ECDSA P-256) for an installation.

    Args:
        installation: The installation's name.
        days: How long it is valid.
        now: The time.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    # Two authorities of one installation must be told apart by their names: chains are built so.
    made = f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, installation),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Podbay {installation}, {made}"),
        ]
    )
    certificate = (
        _builder(name, key, now, days)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(key, certificate)


def issue(
    authority: Authority, identity: Identity, names: Sequence[str], days: int, now: datetime
) -> Issued:
    """Return a new certificate with a new key (ECDSA P-256).

    Args:
        authority: Who signs it.
        identity: Whose it is.
        names: DNS names and IP addresses under which clients reach it.
        days: How long it is valid; it ends with the authority at the latest.
        now: The time.

    Raises:
        ValueError: A name is neither a DNS name nor an address.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    own = (
        [
            service_dns(identity.installation, identity.name),
            installation_dns(identity.installation),
        ]
        if identity.is_service
        else []
    )
    alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    alternatives += [_alternative(name) for name in dict.fromkeys([*own, *names])]
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if identity.is_service:
        usages.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
    ca = authority.certificate
    # What outlives its authority would be refused all the same.
    last = min(now + timedelta(days=days), ca.not_valid_after_utc)
    certificate = (
        _builder(_name(identity.name), key, now, days, last)
        .issuer_name(ca.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )
    return Issued(certificate.public_bytes(serialization.Encoding.PEM), key_pem(key))


def describe(certificate: x509.Certificate) -> Certificate:
    """Return what a certificate says."""
    names: list[str] = []
    identity = None
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        found = x509.SubjectAlternativeName([])
    for one in found:
        if isinstance(one, x509.UniformResourceIdentifier):
            identity = identity or parse_identity(one.value)
        elif isinstance(one, (x509.DNSName, x509.IPAddress)):
            names.append(str(one.value))
    try:
        authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        authority = False
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    of = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return Certificate(
        identity=identity,
        installation=identity.installation if identity else str(of[0].value) if of else "",
        subject=str(common[0].value) if common else "",
        names=tuple(names),
        begins=certificate.not_valid_before_utc,
        expires=certificate.not_valid_after_utc,
        authority=authority,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def is_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether a certificate should be renewed: less than a third of its life is left."""
    whole = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - now < whole * _DUE


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether an authority signed a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def key_of(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Return a private key.

    Raises:
        ValueError: These are not the bytes of an ECDSA key without a password.
    """
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError as error:
        raise ValueError("it is protected by a password") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("it is no ECDSA key")  # noqa: TRY004 # the value is wrong, not the type
    return key


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    days: int,
    last: datetime | None = None,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(last or now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    labels = name.removeprefix("*.").split(".")
    fits = all(
        label
        and len(label) <= 63
        and label.isascii()
        and label.replace("-", "a").replace("_", "a").isalnum()
        for label in labels
    )
    if not fits or len(name) > 253:
        raise ValueError(f"{name[:80]!r} is neither a DNS name nor an IP address")
    return x509.DNSName(name)
