"""Quotas and the audit log over the real services, by the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually_sync
from tests.support.up_command import Podbay

MOCK = "podbay.local.mocks.Echo"


@pytest.fixture(scope="module")
def podbay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podbay]:
    podbay = Podbay(tmp_path_factory.mktemp("up"))
    podbay.start_detached("--account-quota", "replicas=9")
    yield podbay
    podbay.ok("down")


def test_a_session_over_the_quota_waits_says_why_and_starts(podbay: Podbay) -> None:
    podbay.ok("account", "create", "acme")
    shown = podbay.json("account", "quota", "show", "acme")
    assert shown["quota"]["replicas"] == 9, "as `podbay up` was told"
    assert "none" in podbay.ok("account", "quota", "set", "acme", "--replicas", "none")
    podbay.ok("account", "quota", "set", "acme", "--sessions", "1", "--gpu", "nvidia.com/gpu-t4=2")
    service = podbay.json("service", "create-mock", MOCK, "--account", "acme")["id"]
    made = podbay.json("session", "create", service, "--account", "acme", "--wait")
    first = made["inferencesession"]["id"]
    second = podbay.json("session", "create", service, "--account", "acme")["inferencesession"][
        "id"
    ]

    def waits() -> bool:
        return "QuotaLimit" in podbay.ok("session", "list")

    eventually_sync(waits, "the session to wait")
    explained = podbay.ok("session", "explain", second)
    assert "sessions: 1 needed, 1 of 1 used" in explained
    dry = podbay.ok("session", "create", service, "--account", "acme", "--dry-run")
    assert "QUOTA_LIMIT" in dry
    usage = podbay.json("account", "quota", "show", "acme")
    assert usage["usage"]["waitingSessions"] == 1
    assert usage["quota"]["gpus"] == {"nvidia.com/gpu-t4": 2}
    lowered = podbay.run("account", "quota", "set", "acme", "--sessions", "0")
    assert "what runs goes on" in lowered.stderr
    podbay.ok("account", "quota", "set", "acme", "--sessions", "1")
    podbay.ok("session", "terminate", first)
    podbay.ok("session", "wait", second)


def test_what_was_done_is_in_the_audit_log(podbay: Podbay, tmp_path: Path) -> None:
    podbay.ok("account", "create", "beta")
    secret = podbay.ok("token", "create", "--account", "beta").strip()
    file = tmp_path / "token"
    file.write_text(secret)
    file.chmod(0o600)
    endpoint = json.loads((podbay.data.run / "registry.json").read_text())["address"]
    other = ("--endpoint", endpoint, "--token-file", str(file))
    refused = podbay.run(*other, "account", "quota", "set", "beta", "--sessions", "100")
    assert refused.returncode == 4
    assert "PERMISSION_DENIED" in refused.stderr
    mine = podbay.run(*other, "audit", "list", "--json")
    assert {each["account"] for each in json.loads(mine.stdout)} == {"beta"}
    found = podbay.json("audit", "list", "--account", "beta")
    assert [each["method"] for each in found] == ["CreateApiToken", "CreateAccount"]
    (denied,) = podbay.json("audit", "list", "--actor", "beta")
    assert (denied["method"], denied["reason"]) == ("SetAccountQuota", "PERMISSION_DENIED")
    assert secret not in json.dumps(podbay.json("audit", "list", "--limit", "1000"))
    table = podbay.ok("audit", "list", "--failed", "--since", "1h", "--service", "registry")
    assert "SetAccountQuota" in table
    assert "CreateAccount" not in table
    assert podbay.run("audit", "list", "--since", "yesterday").returncode == 2
