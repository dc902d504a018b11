"""The whole platform with certificates: renewed under traffic, and made by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import pytest
from click.testing import CliRunner, Result

from podbay import Client
from podbay.certs import CertificateFolder
from podbay.cli.root import cli
from podbay.errors import PodbayError, SecureConnectionError
from podbay.local import mocks
from tests.support.certificates import certificates, expired
from tests.support.eventually import eventually_sync
from tests.support.platform import Platform


class Traffic:
    """Calls that go on in threads: of a client that stays, and of clients that come and go."""

    def __init__(self, platform: Platform, ca_file: Path, session: str, token: str) -> None:
        self._stop = threading.Event()
        self.calls = {"stays": 0, "comes and goes": 0}
        self.failures: list[PodbayError] = []
        self._threads = [
            threading.Thread(target=self._run, args=(who, platform, ca_file, session, token))
            for who in self.calls
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self) -> None:
        """Return once both have made further calls."""
        seen = dict(self.calls)
        eventually_sync(
            lambda: self.failures or all(self.calls[who] >= seen[who] + 3 for who in seen),
            "further calls",
        )
        assert self.failures == []

    def _run(self, who: str, platform: Platform, ca_file: Path, session: str, token: str) -> None:
        client = platform.client(ca_file=ca_file)
        try:
            while not self._stop.is_set():
                with client.inferencesessions.client(session, token, endpoint="generate") as calls:
                    calls.infer({"text": "Open the pod bay doors"})
                self.calls[who] += 1
                if who == "comes and goes":
                    client.close()
                    client = platform.client(ca_file=ca_file)
        except PodbayError as error:
            self.failures.append(error)
        finally:
            client.close()


def now() -> datetime:
    return datetime.now(UTC)


def session_of(client: Client) -> tuple[str, str]:
    account = client.installation().account
    service = client.inferenceservices.create_mock(mocks.TextCompletion, account=account)
    made = client.inferencesessions.create(
        {"account": account, "inferenceService": service.id, "replicas": 1}
    )
    client.inferencesessions.wait_ready(made.inferencesession.id, timeout=60)
    return made.inferencesession.id, made.token


def restarts(platform: Platform) -> dict[str, int]:
    return {one["name"]: one["restarts"] for one in platform.record()["services"]}


def test_certificates_are_renewed_while_calls_go_on(tmp_path: Path) -> None:
    made = certificates(tmp_path / "certs")
    arguments = ("--tls", str(made.path), "--workers=2", "--drivers=process")
    with (
        Platform(tmp_path / "data", arguments) as platform,
        platform.client(ca_file=made.ca_file) as client,
    ):
        session, token = session_of(client)
        with Traffic(platform, made.ca_file, session, token) as traffic:
            for step in (
                lambda: made.renew(now(), everything=True),
                lambda: made.renew_authority(now()),
                lambda: made.renew(now()),
                made.forget_old_authorities,
            ):
                traffic.more()
                step()
                traffic.more()
            # The services, too, find each other with what is new.
            client.inferencesessions.terminate(session_of(client)[0])
            traffic.more()
            assert restarts(platform) == dict.fromkeys(restarts(platform), 0)
            # A session manager that is started anew knows the new authority only. The routers come
            # back to it by themselves, and calls do not need it.
            platform.service("session-manager").kill()
            eventually_sync(lambda: restarts(platform)["session-manager"] == 1, "a restart")
            session_of(client)
            assert traffic.failures == []
        # An expired certificate of the router is not taken: the former goes on.
        expired(made, "inference-router")
        with (
            platform.client(ca_file=made.ca_file) as newcomer,
            newcomer.inferencesessions.client(session, token, endpoint="generate") as calls,
        ):
            assert calls.infer({"text": "Hal?"})
        logs = (platform.data_dir / "logs" / "inference-router.log").read_text()
        assert "has taken the certificate of podbay://acme/inference-router" in logs
        assert "the certificate that is in use stays" in logs


@pytest.fixture(scope="module")
def reachable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform that other machines can reach."""
    folder = tmp_path_factory.mktemp("reachable")
    with Platform(folder, ("--host=0.0.0.0", "--workers=1", "--no-fetch")) as platform:
        yield platform


def ca_of(platform: Platform) -> Path:
    return platform.data_dir / "certificates" / "ca.crt"


def test_who_listens_beyond_loopback_has_certificates(reachable: Platform) -> None:
    with reachable.client(ca_file=ca_of(reachable)) as client:
        session_of(client)
    with reachable.client() as plain, pytest.raises(SecureConnectionError, match="TLS_MISMATCH"):
        plain.installation()
    keys = list((reachable.data_dir / "certificates").rglob("*.key"))
    assert len(keys) == 4
    assert all(key.stat().st_mode & 0o077 == 0 for key in keys)
    assert f"export PODBAY_API_CA_FILE={ca_of(reachable)}" in reachable.output()


def podbay(*arguments: str, **environment: str) -> Result:
    """Run the command line; variables of this process's own are not in effect."""
    own = dict.fromkeys(name for name in os.environ if name.startswith("PODBAY_"))
    return CliRunner().invoke(cli, list(arguments), env={**own, **environment})


def test_the_command_line_finds_the_authority_by_itself(reachable: Platform) -> None:
    data = f"--data-dir={reachable.data_dir}"
    assert podbay(data, "node", "list").exit_code == 0
    status = json.loads(podbay("status", data, "--json").stdout)
    assert (status["healthy"], status["sessions"]) == (True, 1)
    assert status["caFile"] == str(ca_of(reachable))


def test_the_command_line_takes_settings_of_tls(reachable: Platform) -> None:
    settings = reachable.settings()
    ca = f"--ca-file={ca_of(reachable)}"
    assert podbay(ca, "node", "list", **settings).exit_code == 0
    name = ("--server-name", "podbay.podbay.internal")
    assert podbay(ca, *name, "node", "list", **settings).exit_code == 0
    environment = {**settings, "PODBAY_API_CA_FILE": str(ca_of(reachable))}
    assert podbay("node", "list", **environment).exit_code == 0
    folder = CertificateFolder(reachable.data_dir / "certificates").folder_of("registry")
    shown = ("--client-cert", str(folder / "tls.crt"), str(folder / "tls.key"))
    assert podbay(ca, *shown, "node", "list", **settings).exit_code == 0
    refused = podbay("node", "list", **settings)
    assert refused.exit_code != 0
    assert "TLS_MISMATCH" in refused.stderr
    away = podbay("node", "list", **{**settings, "PODBAY_API_ENDPOINT": "192.0.2.1:1"})
    assert "PLAIN_TEXT_REFUSED" in away.stderr


@pytest.mark.needs_grpcurl
def test_grpcurl_takes_the_authority(reachable: Platform) -> None:
    def grpcurl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["grpcurl", "-max-time", "20", *arguments], capture_output=True, text=True, check=False
        )

    endpoint, ca = reachable.endpoint(), str(ca_of(reachable))
    auth = ("-H", f"authorization: Bearer {reachable.token}")
    listed = grpcurl("-cacert", ca, endpoint, "list")
    assert "podbay.v1.RegistryService" in listed.stdout
    installation = "podbay.v1.RegistryService/GetInstallation"
    answer = grpcurl("-cacert", ca, *auth, endpoint, installation)
    assert json.loads(answer.stdout)["account"] == "admin"
    # Also by a name that is not the address, as behind a tunnel.
    named = ("-authority", "podbay.podbay.internal")
    assert grpcurl("-cacert", ca, *named, *auth, endpoint, installation).returncode == 0
    assert grpcurl("-plaintext", "-connect-timeout", "2", *auth, endpoint, installation).returncode


@pytest.mark.parametrize(
    "service", ["podbay_registry", "podbay_session_manager", "podbay_inference_router"]
)
def test_no_service_listens_beyond_loopback_in_plain_text(service: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s" * 40)
    secret.chmod(0o600)

    options = ["--listen=0.0.0.0:0", f"--data-dir={tmp_path}", f"--service-token-file={secret}"]
    if service == "podbay_inference_router":
        options += ["--session-manager-endpoint=127.0.0.1:1", "--workers=2"]
    ended = subprocess.run(
        [sys.executable, "-m", service, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    for told in ("0.0.0.0:0 can be reached", "--tls DIR", "--allow-plain-text-off-loopback"):
        assert told in ended.stderr
