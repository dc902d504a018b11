"""`podbay backup` while everything runs, and `podbay restore` elsewhere: it is the same there."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from podbay import Client
from podbay.local import mocks
from tests.support.up_command import FREE_PORTS, Podbay

pytestmark = [pytest.mark.needs_postgresql, pytest.mark.timeout(300)]


@pytest.fixture
def podbay(tmp_path: Path) -> Iterator[Podbay]:
    podbay = Podbay(tmp_path / "first")
    podbay.start_detached("--drivers", "inprocess")
    yield podbay
    if podbay.data.running():
        podbay.ok("down")


def endpoint(podbay: Podbay) -> str:
    return podbay.record().service("registry").endpoint


def described(client: Client) -> dict[str, Any]:
    """Return all that is listed, by its kind."""
    return {
        "models": {m.id: (m.name, m.status, m.labels) for m in client.models.query()},
        "services": {s.id: (s.name, s.labels) for s in client.inferenceservices.query()},
        "sessions": {s.id: s.labels for s in client.inferencesessions.query()},
        "tokens": {t.id: (t.name, t.account) for t in client.tokens.list()},
        "accounts": sorted(a.id for a in client.accounts.list()),
    }


def test_what_is_restored_elsewhere_is_the_same(
    podbay: Podbay, tmp_path: Path, postgresql_database: str
) -> None:
    volume = tmp_path / "hal"
    volume.mkdir()
    (volume / "weights.bin").write_bytes(os.urandom(300_000))
    (volume / "config.json").write_text("{}")
    model = podbay.json("model", "upload", str(volume))
    certificates = podbay.data.path / "certificates"
    certificates.mkdir(mode=0o700)
    (certificates / "ca.pem").write_text("an authority")
    podbay.ok("account", "create", "acme")
    secret = podbay.json("token", "create", "--account", "acme", "--name", "audit")["secret"]
    with Client(endpoint(podbay), podbay.data.admin_token_file.read_text().strip()) as client:
        service = client.inferenceservices.create_mock(mocks.Echo, account="admin")
        made = client.inferencesessions.create(
            {"account": "admin", "inferenceService": service.id, "replicas": 1}
        )
        client.inferencesessions.label(made.inferencesession.id, {"kept": "yes"})
        with Writing(client):
            saved = podbay.json("backup", str(tmp_path / "backup"))
        before = described(client)
    assert saved["troubles"] == []
    check_private(tmp_path / "backup")

    other = Podbay(tmp_path / "elsewhere")
    # With the password in the environment, and not on the command line.
    environment = {**os.environ, "PODBAY_DATABASE": postgresql_database}
    run = [sys.executable, "-m", "podbay.cli", "--data-dir", str(other.data.path)]
    command = [*run, "restore", str(tmp_path / "backup")]
    subprocess.run(command, env=environment, check=True, timeout=120)
    assert stat.S_IMODE(other.data.database_file.stat().st_mode) == 0o600
    assert not list(other.data.path.rglob("*.sqlite3"))
    assert (other.data.path / "certificates" / "ca.pem").read_text() == "an authority"
    podbay.ok("down")
    other.start_detached("--drivers", "inprocess")
    try:
        check_same(other, before, secret, made, model["id"], volume, tmp_path)
        check_no_password(other, postgresql_database)
        # And back into files, out of the PostgreSQL that is used.
        other.ok("backup", str(tmp_path / "again"))
    finally:
        other.ok("down")
    third = Podbay(tmp_path / "third")
    third.ok("restore", str(tmp_path / "again"))
    assert (third.data.path / "registry/registry.sqlite3").exists()
    assert content(tmp_path / "again/registry") >= content(tmp_path / "backup/registry")


class Writing:
    """Makes, changes and deletes models as long as it lasts."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stop = threading.Event()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> None:
        self._thread.start()
        assert self._begun.wait(30)

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            model = self._client.models.create(
                {
                    "account": "admin",
                    "name": f"passing-{number}",
                    "artifact": {"kind": "Mock"},
                    "source": {"kind": "Mock"},
                    "resources": {},
                }
            )
            self._client.models.label(model.id, {"n": str(number)})
            self._client.models.delete(model.id)
            self._begun.set()


def check_private(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 in (0, 0o044), path
        if path.is_dir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    for name in ("admin-token", "service-token", "registry/registry.sqlite3"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def check_same(
    other: Podbay,
    before: dict[str, Any],
    secret: str,
    made: Any,
    model: str,
    volume: Path,
    tmp_path: Path,
) -> None:
    token = other.data.admin_token_file.read_text().strip()
    with Client(endpoint(other), token) as client:
        after = described(client)
        # What was made and deleted during the backup may be in it or not.
        after["models"] = {
            key: value for key, value in after["models"].items() if value[0] == "hal"
        }
        before["models"] = {
            key: value for key, value in before["models"].items() if value[0] == "hal"
        }
        assert after == before
        session = made.inferencesession.id
        assert client.inferencesessions.get(session).labels == {"kept": "yes"}
        client.inferencesessions.wait_ready(session, timeout=60)
        # The session's token from before is still good, and so is that of the account.
        interface = made.inferencesession.inferenceService.interface
        with client.inferencesessions.client(session, made.token, interface=interface) as calls:
            assert calls.infer({"text": "open the doors"}) is not None
    with Client(endpoint(other), secret) as client:
        assert client.installation().account == "acme"
    copy = tmp_path / "copy"
    other.ok("model", "download", model, str(copy))
    for path in volume.iterdir():
        assert (copy / path.name).read_bytes() == path.read_bytes()


def check_no_password(podbay: Podbay, url: str) -> None:
    password = url.split(":")[2].partition("@")[0]
    for pid in podbay.processes():
        assert password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    for log in podbay.data.logs.iterdir():
        assert password not in log.read_text()


def content(folder: Path) -> set[str]:
    """Return the digests of the files of models in a backup, which are what they should be."""
    found = set()
    for path in (folder / "models/blobs/files").glob("*/*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        found.add(path.name)
    assert found
    return found


def test_what_is_there_is_never_overwritten(tmp_path: Path, podbay: Podbay) -> None:
    target = tmp_path / "backup"
    target.mkdir()
    (target / "mine").write_text("mine")
    refused = podbay.run("backup", str(target))
    assert refused.returncode == 1
    assert "is not empty; nothing was changed" in refused.stderr
    assert [path.name for path in target.iterdir()] == ["mine"]
    podbay.ok("backup", str(tmp_path / "good"))
    refused = podbay.run("restore", str(tmp_path / "good"), "--data-dir", str(podbay.data.path))
    assert (refused.returncode, "is not empty" in refused.stderr) == (1, True)
    refused = podbay.run("restore", str(target), "--data-dir", str(tmp_path / "new"))
    assert "is no whole backup" in refused.stderr
    # A backup that was damaged since, and one of which a part is missing.
    database = tmp_path / "good/registry/registry.sqlite3"
    database.write_bytes(database.read_bytes()[:-4096])
    refused = podbay.run("restore", str(tmp_path / "good"), "--data-dir", str(tmp_path / "new"))
    assert refused.returncode == 1
    assert "is not what was saved" in refused.stderr
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".*"))
    empty = podbay.run("backup", str(tmp_path / "x"), "--data-dir", str(tmp_path / "nothing"))
    assert "holds nothing of a `podbay up`" in empty.stderr


def test_up_refuses_a_password_on_its_command_line_and_another_database(
    podbay: Podbay,
) -> None:
    password = "s3cr3t-of-the-database"
    url = f"postgresql://pod:{password}@127.0.0.1/x"
    refused = podbay.run("up", *FREE_PORTS, "--database", url)
    assert refused.returncode == 2
    assert "PODBAY_DATABASE" in refused.stderr
    assert password not in refused.stderr
    refused = podbay.run("up", *FREE_PORTS, "--database", "postgresql://pod@127.0.0.1/x", "--json")
    error = json.loads(refused.stderr)["error"]
    assert error["reason"] == "DATABASE_DIFFERS"
    assert "podbay restore --database" in json.dumps(error)
