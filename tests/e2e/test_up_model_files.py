"""`podbay model upload`, `download`, `status`, `files` and `logs` over the real services."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.up_command import Podbay


@pytest.fixture(scope="module")
def podbay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podbay]:
    podbay = Podbay(tmp_path_factory.mktemp("up"))
    podbay.start_detached("--model-quota", "100Mi")
    yield podbay
    podbay.ok("down")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    root = tmp_path / "hal-9000"
    (root / "sub").mkdir(parents=True)
    (root / "a.bin").write_bytes(os.urandom(1_000_000))
    (root / "sub/b c.txt").write_text("b")
    (root / "notes.md").write_text("not of the model")
    return root


def test_a_folder_becomes_a_model_and_a_folder_again(podbay: Podbay, volume: Path, tmp_path: Path):
    made = podbay.json("model", "upload", str(volume), "--exclude", "*.md", "--memory", "1Gi")
    assert (made["name"], made["status"]) == ("hal-9000", "Ready")
    assert made["resources"] == {"memory": "1Gi"}
    # Again: the same model, and nothing is sent. What is left out unasked is told.
    (volume / "link").symlink_to(volume / "a.bin")
    again = podbay.run("model", "upload", str(volume), "--exclude", "*.md", "--memory", "1Gi")
    assert again.returncode == 0
    assert made["id"] in again.stdout
    assert "1000001 of 1000001 bytes" in again.stderr
    assert "left out: 1 symbolic link (link); --include-symlinks follows them" in again.stderr
    status = podbay.ok("model", "status", made["id"], "--wait")
    assert "2 of 2 stored, 1000001 bytes" in status
    listed = podbay.json("model", "files", made["id"])
    assert [(file["path"], file["state"]) for file in listed] == [
        ("a.bin", "Stored"),
        ("sub/b c.txt", "Stored"),
    ]
    assert "sub/b c.txt" in podbay.ok("model", "files", made["id"])
    copy = tmp_path / "copy"
    assert "2 files, 1000001 bytes" in podbay.ok("model", "download", made["id"], str(copy))
    assert (copy / "a.bin").read_bytes() == (volume / "a.bin").read_bytes()
    assert not (copy / "notes.md").exists()
    assert "finalized" in podbay.ok("model", "logs", made["id"])
    lines = podbay.ok("model", "logs", made["id"], "--json").splitlines()
    assert "uploaded a.bin" in json.loads(lines[0])


def test_what_goes_wrong_is_told(podbay: Podbay, volume: Path, tmp_path: Path):
    refused = podbay.run("model", "upload", str(tmp_path / "nothing"), "--json")
    assert refused.returncode == 1
    error = json.loads(refused.stderr)["error"]
    assert error["violations"][0]["field"] == "root_directory"
    assert podbay.run("model", "upload", str(volume), "--model", "x", "--name", "y").returncode == 2
    missing = podbay.run("model", "download", "no-such", str(tmp_path / "copy"))
    assert missing.returncode == 3
    mock = tmp_path / "model.json"
    mock.write_text(
        json.dumps(
            {
                "name": "m",
                "artifact": {"kind": "Volume", "volume": {"files": [{"path": "a", "size": 1}]}},
                "source": {"kind": "Upload"},
                "resources": {},
            }
        )
    )
    made = podbay.json("model", "create", "-f", str(mock))
    assert made["status"] == "WaitingForUpload"
    shown = podbay.ok("model", "get", made["id"])
    assert "podbay model upload DIRECTORY" in shown
    assert "0 of 1 stored" in podbay.ok("model", "status", made["id"])
    early = podbay.run("model", "download", made["id"], str(tmp_path / "copy"))
    assert "MODEL_NOT_READY" in early.stderr
    (volume / "a").write_text("x")
    done = podbay.json("model", "upload", str(volume), "--model", made["id"])
    assert done["status"] == "Ready"


def test_a_fetch_that_fails_tells_why(podbay: Podbay, tmp_path: Path):
    request = tmp_path / "model.json"
    request.write_text(
        json.dumps(
            {
                "name": "m",
                "artifact": {"kind": "Volume", "volume": {"files": []}},
                "source": {"kind": "GitLFS", "gitLFS": {"url": "http://127.0.0.1:9/x.git"}},
                "resources": {},
            }
        )
    )
    made = podbay.json("model", "create", "-f", str(request))
    ended = podbay.run("model", "status", made["id"], "--wait")
    assert ended.returncode == 1
    assert "FetchFailed" in ended.stdout
    assert "cannot be reached" in ended.stdout
    assert "Trying again" in podbay.ok("model", "logs", made["id"])
