"""A client and TLS: what fits, and what it says where something does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from podbay.certs import CertificateFolder
from podbay.errors import (
    InvalidRequestError,
    PodbayError,
    SecureConnectionError,
    UnreachableError,
)
from podbay.v1 import registry_service_pb2 as registry_wire
from podbay.v1 import session_manager_service_pb2 as sessions_wire
from tests.support.certificates import certificates, expired
from tests.support.client_faces import AsyncFace, SyncFace
from tests.support.fake_services import FakeService

# How long a client has where it cannot succeed: it says why as soon as it knows.
NO_USE = 0.3


@pytest.fixture(params=[SyncFace, AsyncFace], ids=["sync", "async"])
def face(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def made(tmp_path: Path) -> CertificateFolder:
    folder = certificates(tmp_path / "certs")
    folder.issue("client/ops", (), datetime.now(UTC))
    return folder


@pytest.fixture
def registry() -> Iterator[FakeService]:
    service = FakeService(registry_wire.DESCRIPTOR.services_by_name["RegistryService"])
    service.handlers["GetInstallation"] = lambda _request, _context: (
        registry_wire.GetInstallationResponse(
            installation_id="i",
            version="1",
            account="acct",
            session_manager_endpoint=service.session_manager,  # type: ignore[attr-defined]
        )
    )
    service.session_manager = "127.0.0.1:1"  # type: ignore[attr-defined]
    yield service
    service.stop()


def credentials(
    made: CertificateFolder, name: str = "registry", *, mutual: bool = False
) -> grpc.ServerCredentials:
    folder = made.folder_of(name)
    pair = ((folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes())
    return grpc.ssl_server_credentials([pair], made.ca_file.read_bytes(), mutual)


def ask(face: Any, address: str, **options: Any) -> str:
    with face.client(address, **{"timeout": 20.0, **options}) as client:
        return str(client.installation().account)


def refusal(face: Any, address: str, **options: Any) -> PodbayError:
    with pytest.raises(SecureConnectionError) as caught:
        ask(face, address, **{"timeout": NO_USE, **options})
    assert caught.value.metadata["address"] == address.removeprefix("grpcs://")
    assert caught.value.not_started
    return caught.value


def test_an_authority_that_is_known(
    face: Any, made: CertificateFolder, registry: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.start(credentials=credentials(made))
    assert ask(face, registry.address, ca_file=made.ca_file) == "acct"
    assert ask(face, f"grpcs://{registry.address}", ca_file=str(made.ca_file)) == "acct"
    monkeypatch.setenv("PODBAY_API_CA_FILE", str(made.ca_file))
    assert ask(face, registry.address) == "acct"


def test_a_name_in_place_of_the_address(
    face: Any, made: CertificateFolder, registry: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.host = "127.0.0.2"
    registry.start(credentials=credentials(made))
    error = refusal(face, registry.address, ca_file=made.ca_file)
    assert (error.reason, error.metadata["problem"]) == ("TLS_CERTIFICATE_REJECTED", "other-name")
    assert "not for 127.0.0.2" in str(error)
    assert "server_name=" in str(error)
    for name in ("acme.podbay.internal", "registry.acme.podbay.internal"):
        assert ask(face, registry.address, ca_file=made.ca_file, server_name=name) == "acct"
    other = "session-manager.acme.podbay.internal"
    error = refusal(face, registry.address, ca_file=made.ca_file, server_name=other)
    assert error.metadata["problem"] == "other-name"
    monkeypatch.setenv("PODBAY_API_SERVER_NAME", "acme.podbay.internal")
    assert ask(face, registry.address, ca_file=made.ca_file) == "acct"


def not_yet_valid(made: CertificateFolder) -> None:
    made.issue("registry", (), datetime.now(UTC) + timedelta(days=2))


@pytest.mark.parametrize(
    ("change", "problem", "way_out"),
    [
        (lambda made: expired(made, "registry"), "expired", "podbay certs renew"),
        (not_yet_valid, "not-yet-valid", "clock"),
        (lambda made: None, "unknown-authority", "PODBAY_API_CA_FILE"),
    ],
    ids=["expired", "not yet valid", "foreign authority"],
)
def test_a_certificate_that_is_not_believed(
    face: Any,
    made: CertificateFolder,
    registry: FakeService,
    tmp_path: Path,
    change: Callable[[CertificateFolder], None],
    problem: str,
    way_out: str,
) -> None:
    trusted = made.ca_file
    if problem == "unknown-authority":
        trusted = certificates(tmp_path / "other").ca_file
    change(made)
    registry.start(credentials=credentials(made))
    error = refusal(face, registry.address, ca_file=trusted)
    assert (error.reason, error.metadata["problem"]) == ("TLS_CERTIFICATE_REJECTED", problem)
    assert way_out in str(error)


def test_the_systems_authorities_do_not_vouch_for_ours(
    face: Any, made: CertificateFolder, registry: FakeService
) -> None:
    registry.start(credentials=credentials(made))
    error = refusal(face, f"grpcs://{registry.address}")
    assert error.metadata["problem"] == "unknown-authority"


def test_plain_text_to_a_service_that_speaks_tls(
    face: Any, made: CertificateFolder, registry: FakeService
) -> None:
    registry.start(credentials=credentials(made))
    error = refusal(face, registry.address)
    assert (error.reason, error.metadata["service"]) == ("TLS_MISMATCH", "TLS")
    assert "ca_file=" in str(error)


def test_tls_to_a_service_that_speaks_plain_text(
    face: Any, made: CertificateFolder, registry: FakeService
) -> None:
    registry.start()
    error = refusal(face, registry.address, ca_file=made.ca_file)
    assert (error.reason, error.metadata["service"]) == ("TLS_MISMATCH", "plain text")
    assert "--tls" in str(error)
    assert registry.requests == []


def test_a_service_that_demands_a_certificate(
    face: Any, made: CertificateFolder, registry: FakeService, tmp_path: Path
) -> None:
    registry.start(credentials=credentials(made, mutual=True))
    own = made.folder_of("client/ops")

    def shown(folder: Path) -> dict[str, Any]:
        return {
            "ca_file": made.ca_file,
            "client_cert_file": folder / "tls.crt",
            "client_key_file": folder / "tls.key",
        }

    assert ask(face, registry.address, **shown(own)) == "acct"
    error = refusal(face, registry.address, ca_file=made.ca_file)
    assert error.reason == "TLS_CLIENT_CERTIFICATE_REFUSED"
    assert "without a certificate" in str(error)
    assert "podbay certs issue" in str(error)
    foreign = certificates(tmp_path / "other").folder_of("registry")
    error = refusal(face, registry.address, **shown(foreign))
    assert error.reason == "TLS_CLIENT_CERTIFICATE_REFUSED"
    assert "does not take this client's" in str(error)
    expired(made, "client/ops")
    error = refusal(face, registry.address, **shown(own))
    assert error.reason == "TLS_CLIENT_CERTIFICATE_REFUSED"


def test_files_that_cannot_be_used(face: Any, made: CertificateFolder, tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("x")
    own, other = made.folder_of("client/ops"), made.folder_of("registry")
    for options, told in [
        ({"ca_file": tmp_path / "none"}, "No such file"),
        ({"ca_file": tmp_path}, "Is a directory"),
        ({"ca_file": nonsense}, "no certificates in PEM"),
        (
            {"client_cert_file": own / "tls.crt", "client_key_file": other / "tls.key"},
            "is not its private key",
        ),
        ({"client_cert_file": nonsense, "client_key_file": nonsense}, "no certificate and private"),
        ({"client_cert_file": own / "tls.crt", "client_key_file": tmp_path / "none"}, "No such"),
    ]:
        with pytest.raises(InvalidRequestError, match=told):
            ask(face, "127.0.0.1:1", timeout=NO_USE, **options)


def test_a_token_goes_to_no_other_machine_in_plain_text(face: Any) -> None:
    # Addresses of documentation: nobody has them, and nothing is sent.
    for address in ("192.0.2.1:7101", "[2001:db8::1]:7101", "pod.example:7101"):
        error = refusal(face, address)
        assert error.reason == "PLAIN_TEXT_REFUSED"
        assert "insecure=True" in str(error)
        assert refusal(face, address, insecure=False).reason == "PLAIN_TEXT_REFUSED"
    with pytest.raises(UnreachableError):
        ask(face, "127.0.0.1:1", timeout=NO_USE, insecure=True)


def test_the_registry_leads_no_token_to_another_machine(face: Any, registry: FakeService) -> None:
    registry.start()
    registry.session_manager = "192.0.2.1:7102"  # type: ignore[attr-defined]
    with (
        face.client(registry.address, timeout=NO_USE * 10) as client,
        pytest.raises(SecureConnectionError, match="PLAIN_TEXT_REFUSED"),
    ):
        client.inferencesessions.query()


def test_a_client_with_tls_speaks_tls_to_all_services(
    face: Any, made: CertificateFolder, registry: FakeService
) -> None:
    registry.start(credentials=credentials(made))
    sessions = FakeService(sessions_wire.DESCRIPTOR.services_by_name["SessionManagerService"])
    sessions.handlers["ListInferenceSessions"] = lambda _request, _context: (
        sessions_wire.ListInferenceSessionsResponse()
    )
    registry.session_manager = "127.0.0.1:1"  # type: ignore[attr-defined]
    try:
        sessions.start()
        registry.session_manager = sessions.address  # type: ignore[attr-defined]
        with (
            face.client(registry.address, ca_file=made.ca_file, timeout=20.0) as client,
            pytest.raises(SecureConnectionError, match="TLS_MISMATCH"),
        ):
            client.inferencesessions.query()
        assert sessions.requests == []
        sessions.stop()
        sessions.start(credentials=credentials(made, "session-manager"))
        registry.session_manager = sessions.address  # type: ignore[attr-defined]
        with face.client(registry.address, ca_file=made.ca_file, timeout=20.0) as client:
            assert client.inferencesessions.query() == []
    finally:
        sessions.stop()


def test_what_is_renewed_needs_no_new_client(
    face: Any, made: CertificateFolder, registry: FakeService
) -> None:
    """The service's certificate, the authority, and the client's own."""
    own = made.folder_of("client/ops")
    registry.start(credentials=credentials(made, mutual=True))
    registry.handlers["ListAccounts"] = lambda _request, _context: (
        registry_wire.ListAccountsResponse()
    )
    options = {
        "ca_file": made.ca_file,
        "client_cert_file": own / "tls.crt",
        "client_key_file": own / "tls.key",
    }
    with face.client(registry.address, timeout=20.0, **options) as client:
        for step in (
            lambda: made.renew(datetime.now(UTC), everything=True),
            lambda: made.renew_authority(datetime.now(UTC)),
            lambda: made.renew(datetime.now(UTC)),
            made.forget_old_authorities,
        ):
            assert list(client.accounts.list()) == []
            step()
            registry.stop()
            registry.start(registry.port, credentials(made, mutual=True))
        assert list(client.accounts.list()) == []
        # What cannot be used is not taken.
        made.ca_file.write_text("nonsense")
        assert list(client.accounts.list()) == []
