"""The certificate of a service: what is refused at the start, and what is not taken later."""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from podbay.certs import CertificateFolder
from podbay.v1 import registry_service_pb2, session_manager_service_pb2
from podbay_kit.peers import CALLERS, identity_of
from podbay_kit.process import SettingsError, common_options
from podbay_kit.tls_files import LiveTls, TlsError, load_tls
from podbay_kit.transport import Transport, transport_of, transport_options
from tests.support.certificates import certificates, expired

Change = Callable[[CertificateFolder, Path], object]


@pytest.fixture
def made(tmp_path: Path) -> CertificateFolder:
    return certificates(tmp_path / "certs")


def now() -> datetime:
    return datetime.now(UTC)


def foreign_authority(made: CertificateFolder, folder: Path) -> None:
    other = certificates(made.path.parent / "other")
    shutil.copy(other.ca_file, folder / "ca.crt")


# Each makes the registry's certificate unusable; with what the error must tell.
FAULTS: dict[str, tuple[Change, str]] = {
    "no certificate": (lambda _, folder: (folder / "tls.crt").unlink(), "tls.crt cannot be read"),
    "no key": (lambda _, folder: (folder / "tls.key").unlink(), "tls.key cannot be read"),
    "no authority": (lambda _, folder: (folder / "ca.crt").unlink(), "ca.crt cannot be read"),
    "a folder in place of a file": (
        lambda _, folder: ((folder / "tls.key").unlink(), (folder / "tls.key").mkdir()),
        "tls.key cannot be read",
    ),
    "no PEM": (lambda _, folder: (folder / "tls.crt").write_text("x"), "no certificates in PEM"),
    "no key in PEM": (lambda _, folder: (folder / "tls.key").write_text("x"), "no private key"),
    "an open key": (lambda _, folder: (folder / "tls.key").chmod(0o644), "chmod 600"),
    "the key of another": (
        lambda made, folder: shutil.copy(made.folder_of("session-manager") / "tls.key", folder),
        "does not belong to the certificate",
    ),
    "expired": (lambda made, _: expired(made, "registry"), "has expired"),
    "not yet": (
        lambda made, _: made.issue("registry", (), now() + timedelta(days=2)),
        "is not valid before",
    ),
    "another authority": (foreign_authority, "none of the authorities"),
    "another service": (
        lambda made, folder: shutil.copytree(
            made.folder_of("inference-router"), folder, dirs_exist_ok=True
        ),
        "podbay://acme/inference-router, and this is the registry",
    ),
    "a client": (
        lambda made, folder: shutil.copytree(
            made.issue("client/ops", (), now()).folder, folder, dirs_exist_ok=True
        ),
        "podbay://acme/client/ops",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_used_is_refused_at_the_start(made: CertificateFolder, fault: str) -> None:
    change, told = FAULTS[fault]
    folder = made.folder_of("registry")
    load_tls(folder, "registry", now())
    change(made, folder)
    with pytest.raises(TlsError, match=told.replace("(", r"\(")) as caught:
        load_tls(folder, "registry", now())
    assert str(folder) in str(caught.value)
    with pytest.raises(TlsError):
        LiveTls(folder, "registry")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_used_is_not_taken_later(
    made: CertificateFolder, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    change, told = FAULTS[fault]
    folder = made.folder_of("registry")
    live = LiveTls(folder, "registry")
    before = live.current()
    change(made, folder)
    if fault == "an open key":
        # A mode alone is no new file.
        (folder / "tls.key").touch()
    with caplog.at_level(logging.WARNING):
        assert live.current() is before
        assert live.current() is before
    # Told once, not with each connection.
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "stays" in warning
    assert told.split(" cannot")[0] in warning
    # And what is mended is taken.
    shutil.rmtree(folder)
    made.issue("registry", (), now())
    assert live.current() is not before


def test_a_new_certificate_is_taken(
    made: CertificateFolder, caplog: pytest.LogCaptureFixture
) -> None:
    live = LiveTls(made.folder_of("registry"), "registry")
    before = live.current()
    assert live.current() is before
    made.renew(now(), everything=True)
    with caplog.at_level(logging.INFO):
        after = live.current()
    assert after is not before
    assert after.chain != before.chain
    assert "has taken the certificate of podbay://acme/registry" in caplog.text


def test_another_installation_is_not_taken(
    made: CertificateFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = made.folder_of("registry")
    live = LiveTls(folder, "registry")
    before = live.current()
    other = certificates(tmp_path / "other", "elsewhere")
    shutil.copytree(other.folder_of("registry"), folder, dirs_exist_ok=True)
    assert live.current() is before
    assert "for the installation elsewhere" in caplog.text


def test_an_end_that_is_near_is_told(
    made: CertificateFolder, caplog: pytest.LogCaptureFixture
) -> None:
    made.issue("registry", (), now(), days=7)
    LiveTls(made.folder_of("registry"), "registry")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "(6 days)" in record.getMessage()


def test_no_key_in_a_repr(made: CertificateFolder) -> None:
    material = LiveTls(made.folder_of("registry"), "registry").current()
    assert "PRIVATE" not in repr(material)
    assert "podbay://acme/registry" in repr(material)


@pytest.mark.parametrize(
    ("uris", "name"),
    [
        ([b"podbay://acme/registry"], "registry"),
        ([b"https://x", b"podbay://acme/client/ops"], "client/ops"),
        ([], None),
        ([b"\xff"], None),
        # Who says to be two is nobody.
        ([b"podbay://acme/registry", b"podbay://acme/inference-router"], None),
    ],
)
def test_the_identity_of_a_peer(uris: list[bytes], name: str | None) -> None:
    found = identity_of({"peer_uri": uris})
    assert (found.name if found else None) == name


def test_the_table_names_methods_that_there_are() -> None:
    there = {
        f"/{service.full_name}/{method.name}"
        for module in (registry_service_pb2, session_manager_service_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert set(CALLERS) <= there


def transport(*arguments: str, peers: tuple[str, ...] = ()) -> Transport:
    parser = argparse.ArgumentParser()
    common_options(parser, port=7101)
    transport_options(parser, service_port=7111)
    return transport_of(
        parser.parse_args(["--data-dir=d", *arguments]), "registry", peers=list(peers)
    )


@pytest.fixture
def secret(tmp_path: Path) -> str:
    file = tmp_path / "secret"
    file.write_text("s" * 40)
    file.chmod(0o600)
    return f"--service-token-file={file}"


def test_plain_text_stays_on_this_machine(secret: str) -> None:
    for listen in ("127.0.0.1:0", "[::1]:0", "localhost:0", "127.1.2.3:0"):
        assert transport(f"--listen={listen}", secret).tls is None
    for listen in ("0.0.0.0:0", "[::]:0", "10.0.0.1:0", "pod.example:0"):
        with pytest.raises(SettingsError, match="--allow-plain-text-off-loopback"):
            transport(f"--listen={listen}", secret)
        allowed = transport(f"--listen={listen}", secret, "--allow-plain-text-off-loopback")
        assert allowed.service_token == "s" * 40
    with pytest.raises(SettingsError, match="the service token would travel"):
        transport(secret, peers=("pod.example:7102",))
    assert transport(secret, "--allow-plain-text-off-loopback", peers=("pod.example:7102",))


def test_certificates_take_the_place_of_the_token(made: CertificateFolder, secret: str) -> None:
    tls = f"--tls={made.folder_of('registry')}"
    found = transport(tls, "--listen=0.0.0.0:7101")
    assert found.service_token is None
    assert found.tls is not None
    assert found.tls.service_listen == "0.0.0.0:7111"
    given = transport(tls, "--service-listen=10.0.0.1:1").tls
    assert given is not None
    assert given.service_listen == "10.0.0.1:1"
    with pytest.raises(SettingsError, match="no service token"):
        transport(tls, secret)
    with pytest.raises(TlsError, match="this is the registry"):
        transport(f"--tls={made.folder_of('session-manager')}")


def test_options_that_do_not_fit(secret: str) -> None:
    with pytest.raises(SettingsError, match="--tls DIR, or --service-token-file"):
        transport()
    with pytest.raises(SettingsError, match="--service-listen needs --tls"):
        transport(secret, "--service-listen=127.0.0.1:0")
    with pytest.raises(SettingsError, match="--require-client-certificates needs --tls"):
        transport(secret, "--require-client-certificates")
