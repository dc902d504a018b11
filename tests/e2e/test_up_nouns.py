"""The nouns and verbs of the command line over the real services."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.up_command import Podbay

MODEL = {
    "name": "m",
    "artifact": {"kind": "Mock"},
    "source": {"kind": "Mock"},
    "resources": {"memory": "1Gi"},
}
MOCK = "podbay.local.mocks.Echo"


@pytest.fixture(scope="module")
def podbay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podbay]:
    podbay = Podbay(tmp_path_factory.mktemp("up"))
    podbay.start_detached()
    yield podbay
    podbay.ok("down")


def test_a_model_from_its_file_to_its_end(podbay: Podbay, tmp_path: Path):
    file = tmp_path / "model.json"
    file.write_text(json.dumps(MODEL))
    made = podbay.json("model", "create", "-f", str(file))
    assert made["kind"] == "Model"
    assert podbay.json("model", "get", made["id"]) == made
    assert podbay.json("model", "label", made["id"], "a=b")["labels"] == {"a": "b"}
    assert made["id"] in podbay.ok("model", "list", "--label", "a=b", "--name", "m")
    assert podbay.json("model", "label", made["id"], "a-")["labels"] == {}
    assert podbay.json("model", "list", "--label", "a=b") == []
    assert "Deleted" in podbay.ok("model", "delete", made["id"])


def test_a_service_around_an_image_from_standard_input(podbay: Podbay):
    request = {
        "name": "s",
        "runner": {
            "kind": "container",
            "resources": {},
            "image": {"host": "h.example", "name": "a/b", "digest": f"sha256:{'0' * 64}"},
        },
        "interface": {"endpoint": "e", "outputSchema": {"arrowSchema": ""}},
    }
    made = podbay.json("service", "create", "-f", "-", stdin=json.dumps(request))
    assert made["runner"]["image"]["host"] == "h.example"
    refused = podbay.run("session", "create", made["id"], "--json")
    assert refused.returncode == 1
    error = json.loads(refused.stderr)["error"]
    assert error["reason"] == "UNSUPPORTED_SERVICE"
    assert "container" in error["message"]
    assert "Deleted" in podbay.ok("service", "delete", made["id"])


def test_an_account_and_a_token_that_ends(podbay: Podbay, tmp_path: Path):
    podbay.ok("account", "create", "team-a")
    assert "team-a" in podbay.ok("account", "list").split()
    made = podbay.json("token", "create", "--account", "team-a", "--expires", "1h", "--name", "ci")
    secret = tmp_path / "token"
    secret.write_text(made["secret"])
    name = made["token"]["id"]
    assert name in podbay.ok("token", "list", "--account", "team-a")
    service = podbay.json("--token-file", str(secret), "service", "create-mock", MOCK)
    assert service["account"] == "team-a"
    denied = podbay.run(
        "--token-file", str(secret), "service", "create-mock", MOCK, "--account", "admin"
    )
    assert denied.returncode == 4
    assert "PERMISSION_DENIED" in denied.stderr
    assert "revoked" in podbay.ok("token", "revoke", name)
    ended = podbay.run("--token-file", str(secret), "service", "list")
    assert ended.returncode == 4
    assert "TOKEN_REVOKED" in ended.stderr


def test_a_node_is_closed_and_opened(podbay: Podbay):
    nodes = podbay.json("node", "list")
    assert nodes
    name = nodes[0]["name"]
    assert podbay.json("node", "cordon", name)["state"] == "Cordoned"
    assert podbay.json("node", "uncordon", name)["state"] == "Ready"


def test_a_command_that_cannot_start_is_explained_with_its_log(podbay: Podbay):
    service = podbay.json(
        *("service", "create-process", "--name", "broken", "--endpoint", "x"),
        *("--readiness-path", "/ready", "--", sys.executable, "-c", "print('oh no'); exit(3)"),
    )
    made = podbay.json("session", "create", service["id"])
    session = made["inferencesession"]["id"]
    waited = podbay.run("session", "wait", session, "--timeout", "60s", "--json")
    assert waited.returncode in {1, 5}
    text = podbay.ok("session", "explain", session)
    assert "REPLICA_EXITED" in text
    assert "exit code 3" in text
    assert "| oh no" in text
    assert "oh no" in podbay.ok("logs", session)
    refused = podbay.run("infer", session, "{}", "--timeout", "5s")
    assert refused.returncode in {1, 5}
    assert "oh no" in refused.stderr
    podbay.ok("session", "delete", session)


def test_a_session_is_labelled_and_its_old_tokens_end(podbay: Podbay):
    service = podbay.json("service", "create-mock", MOCK)["id"]
    assert podbay.json("service", "label", service, "a=b")["labels"] == {"a": "b"}
    session = podbay.json("session", "create", service, "--wait", "--expires", "1h")
    name = session["inferencesession"]["id"]
    assert session["inferencesession"]["expires"]
    assert podbay.json("session", "label", name, "x=y")["labels"] == {"x": "y"}
    assert podbay.json("session", "list", "--label", "x=y")[0]["id"] == name
    assert podbay.json("infer", name, '{"n": 1}', "--raw")
    assert podbay.ok("session", "token", name, "--revoke-others").strip()
    assert "yes" in podbay.ok("session", "wait", name)
    assert "Deleted" in podbay.ok("session", "delete", name)
