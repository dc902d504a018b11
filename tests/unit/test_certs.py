"""Issuing certificates, and their folder."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from podbay.certs import CertificateFolder
from podbay.local.faults import LocalError
from podbay.schema.identities import SERVICES, Identity, parse_identity, service_dns

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def made(tmp_path: Path) -> CertificateFolder:
    folder = CertificateFolder(tmp_path / "certs")
    folder.init("acme", NOW)
    return folder


def reason(folder_call, *arguments, **keywords) -> str:
    with pytest.raises(LocalError) as caught:
        folder_call(*arguments, **keywords)
    return caught.value.reason


def certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())


@pytest.mark.parametrize(
    ("uri", "identity"),
    [
        ("podbay://acme/registry", Identity("acme", "registry")),
        ("podbay://acme/client/ops", Identity("acme", "client/ops")),
        ("podbay://acme/client/registry", Identity("acme", "client/registry")),
        ("podbay://acme/ops", None),
        ("podbay://acme/registry/x", None),
        ("podbay://acme/", None),
        ("podbay:///registry", None),
        ("podbay://Acme/registry", None),
        ("spiffe://acme/registry", None),
        ("podbay://acme/client/", None),
        ("podbay://acme/client/../registry", None),
    ],
)
def test_identities(uri: str, identity: Identity | None) -> None:
    assert parse_identity(uri) == identity
    if identity is not None:
        assert identity.uri == uri
        assert identity.is_service == (uri == "podbay://acme/registry")


def test_an_authority_and_what_it_issues(made: CertificateFolder) -> None:
    entry = made.issue("registry", ["pod.example", "10.0.0.9"], NOW, days=30)
    said = entry.certificate
    assert said.identity == Identity("acme", "registry")
    assert {"localhost", "127.0.0.1", "pod.example", "10.0.0.9"} <= set(said.names)
    assert service_dns("acme", "registry") in said.names
    assert said.expires == NOW + timedelta(days=30)
    leaf = certificate(entry.folder)
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(made.ca_file.read_bytes()))


def test_each_service_has_a_name_that_no_other_has(made: CertificateFolder) -> None:
    names = {name: set(made.issue(name, [], NOW).certificate.names) for name in SERVICES}
    for name in SERVICES:
        assert [other for other in SERVICES if service_dns("acme", name) in names[other]] == [name]


def test_keys_are_for_their_owner_only(made: CertificateFolder) -> None:
    folder = made.issue("client/ops", [], NOW).folder
    for key in (made.ca_key_file, folder / "tls.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert list(made.path.rglob(".*")) == []


def test_nothing_outlives_its_authority(tmp_path: Path) -> None:
    folder = CertificateFolder(tmp_path)
    folder.init("acme", NOW, days=10)
    said = folder.issue("registry", [], NOW + timedelta(days=5), days=365).certificate
    assert said.expires == NOW + timedelta(days=10)
    assert reason(folder.issue, "registry", [], NOW + timedelta(days=11)) == "AUTHORITY_EXPIRED"


def test_what_cannot_be_issued(made: CertificateFolder, tmp_path: Path) -> None:
    for name, names in [
        ("nobody", []),
        ("client/No", []),
        ("client/../x", []),
        ("registry", ["a/b"]),
        ("registry", [""]),
        ("registry", ["x" * 64 + ".example"]),
    ]:
        assert reason(made.issue, name, names, NOW) == "CERTIFICATE_REFUSED"
    assert reason(made.init, "acme", NOW) == "CERTIFICATES_EXIST"
    assert reason(CertificateFolder(tmp_path / "x").init, "a b", NOW) == "CERTIFICATE_REFUSED"
    none = CertificateFolder(tmp_path / "none")
    assert reason(none.issue, "registry", [], NOW) == "CERTIFICATES_NOT_FOUND"
    assert not (tmp_path / "none").exists()


def test_the_authoritys_key_may_be_elsewhere(tmp_path: Path) -> None:
    key = tmp_path / "vault" / "ca.key"
    folder = CertificateFolder(tmp_path / "certs", key)
    folder.init("acme", NOW)
    assert folder.issue("registry", [], NOW).certificate.identity is not None
    assert not (folder.path / "ca.key").exists()
    without = CertificateFolder(folder.path)
    assert reason(without.issue, "registry", [], NOW) == "AUTHORITY_KEY_NOT_READABLE"
    other = CertificateFolder(tmp_path / "other")
    other.init("acme", NOW)
    wrong = CertificateFolder(folder.path, other.ca_key_file)
    assert reason(wrong.issue, "registry", [], NOW) == "AUTHORITY_KEY_MISMATCH"
    key.write_text("nonsense")
    assert reason(folder.issue, "registry", [], NOW) == "CERTIFICATES_NOT_READABLE"


def test_what_is_due_is_renewed_with_its_names_and_its_life(made: CertificateFolder) -> None:
    made.issue("registry", ["pod.example"], NOW, days=30)
    made.issue("session-manager", [], NOW, days=90)
    before = certificate(made.folder_of("registry"))
    later = NOW + timedelta(days=21)
    assert [entry.folder.name for entry in made.show(later) if entry.due] == ["registry"]
    (entry,) = made.renew(later)
    assert "pod.example" in entry.certificate.names
    assert entry.certificate.expires == later + timedelta(days=30)
    after = certificate(made.folder_of("registry"))
    assert before.public_key() != after.public_key()
    assert made.renew(later) == []
    assert len(made.renew(later, everything=True)) == 2


def test_an_authority_is_replaced_in_steps(made: CertificateFolder) -> None:
    made.ensure("acme", [], NOW)
    old = made.ca_file.read_bytes()
    made.renew_authority(NOW + timedelta(days=1))
    both = made.ca_file.read_bytes()
    assert both.endswith(old)
    # Everybody trusts both before the new one is used.
    for name in SERVICES:
        assert (made.folder_of(name) / "ca.crt").read_bytes() == both
        certificate(made.folder_of(name)).verify_directly_issued_by(
            x509.load_pem_x509_certificate(old)
        )
    assert reason(made.forget_old_authorities) == "CERTIFICATES_OLD"
    assert len(made.renew(NOW + timedelta(days=1))) == 3
    assert len(made.forget_old_authorities()) == 1
    new = made.ca_file.read_bytes()
    assert new == both.removesuffix(old)
    assert (made.folder_of("registry") / "ca.crt").read_bytes() == new
    assert made.show(NOW)[0].certificate.installation == "acme"


def test_ensure_makes_what_is_missing_and_nothing_twice(tmp_path: Path) -> None:
    folder = CertificateFolder(tmp_path)
    assert len(folder.ensure("acme", ["pod.example"], NOW)) == 4
    assert folder.ensure("acme", ["pod.example"], NOW) == []
    (folder.folder_of("registry") / "tls.crt").unlink()
    assert [e.folder.name for e in folder.ensure("acme", ["pod.example"], NOW)] == ["registry"]
    assert len(folder.ensure("acme", ["other.example"], NOW)) == 3
    assert len(folder.ensure("acme", ["other.example"], NOW + timedelta(days=300))) == 3


def test_a_damaged_folder_says_so(made: CertificateFolder) -> None:
    made.issue("registry", [], NOW)
    (made.folder_of("registry") / "tls.crt").write_text("nonsense")
    assert reason(made.show, NOW) == "CERTIFICATES_NOT_READABLE"
