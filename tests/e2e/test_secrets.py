"""Known secrets go through many failures, and are found nowhere but where they belong."""

from __future__ import annotations

import base64
import json
import sqlite3
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from podbay import Client
from podbay.errors import PodbayError
from podbay.local import mocks
from podbay.types import Grant
from podbay.v1 import inference_router_service_pb2 as router_pb
from podbay.v1.inference_router_service_pb2_grpc import InferenceRouterServiceStub
from tests.support.eventually import eventually_sync
from tests.support.platform import Platform
from tests.support.up_command import Podbay

OF_THE_SERVICE = "a-secret-of-the-service-5b1f0c"
BOGUS = "pbt_0123456789abcdef.bogus-secret-that-nobody-gave-0123456789abc"
NOT_A_TOKEN = "not-a-token-at-all-9f3e"
REPLICA = """
import os, sys
assert os.environ["OF_THE_SERVICE"]
print("the replica fails on purpose")
sys.exit(3)
"""


class Secrets:
    """The secrets of a platform, and what was said by it."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        read = platform.data_dir.joinpath
        self.known = {
            "admin token": platform.token,
            "service token": read("service-token").read_text().strip(),
            "bogus token": BOGUS,
            "no token": NOT_A_TOKEN,
        }
        self.said: list[str] = []
        self.statuses: list[str] = []

    def fails(self, call: Any, *arguments: Any, **options: Any) -> str:
        """Make a call that must fail, and keep all that it says."""
        with pytest.raises(PodbayError) as caught:
            call(*arguments, **options)
        error = caught.value
        self.said += [str(error), repr(error), str(vars(error)), json.dumps(str(error.metadata))]
        return str(error.reason)

    def found_in(self, text: str, *, but: tuple[str, ...] = ()) -> list[str]:
        return [name for name, value in self.known.items() if name not in but and value in text]


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secrets]:
    """A platform with known secrets, after many failures."""
    folder = tmp_path_factory.mktemp("platform")
    with Platform(folder, ("--workers=2",)) as platform, platform.client() as admin:
        secrets = Secrets(platform)
        fail(secrets, platform, admin)
        yield secrets


def fail(secrets: Secrets, platform: Platform, admin: Client) -> None:
    """Do what goes wrong, with every kind of secret in every place where one may be given."""
    account = admin.installation().account
    admin.accounts.create("acme")
    user = admin.tokens.create("acme", name="user")
    reader = admin.tokens.create(
        "acme", name="reader", grants=[Grant(("models",), ("get",), ("acme",), ())]
    )
    secrets.known |= {"user token": user.secret, "reader token": reader.secret}
    service = admin.inferenceservices.create_mock(mocks.Echo, account=account)
    made = admin.inferencesessions.create({"account": account, "inferenceService": service.id})
    session = made.inferencesession.id
    secrets.known["session token"] = made.token
    admin.inferencesessions.wait_ready(session, timeout=60)
    broken = admin.inferenceservices.create_process(
        [sys.executable, "-c", REPLICA],
        {"endpoint": "x", "outputSchema": {"arrowSchema": ""}},
        account=account,
        name="broken",
        env={"OF_THE_SERVICE": OF_THE_SERVICE},
    )
    secrets.known["secret of the service"] = OF_THE_SERVICE
    failing = admin.inferencesessions.create({"account": account, "inferenceService": broken.id})
    failed = failing.inferencesession.id
    secrets.known["token of the failing session"] = failing.token

    def seen(status: Any) -> bool:
        return any(replica.reason for replica in status.replicas)

    eventually_sync(
        lambda: seen(admin.inferencesessions.status(failed)), "the replica has failed", timeout=60
    )
    for wrong in (BOGUS, NOT_A_TOKEN, made.token):
        with Client(platform.endpoint(), wrong) as client:
            assert secrets.fails(client.models.query) == "TOKEN_INVALID"
        with Client(platform.endpoint(), platform.token) as client:
            # An API token is none of the router, and a damaged session token is none at all.
            caller = client.inferencesessions.client(session, f"{wrong}x", endpoint="e")
            secrets.fails(caller.infer, {"a": 1})
    with Client(platform.endpoint(), reader.secret) as client:
        assert secrets.fails(client.inferencesessions.query) == "PERMISSION_DENIED"
        assert secrets.fails(client.models.get, "0" * 32) == "MODEL_NOT_FOUND"
        assert secrets.fails(client.tokens.create, "acme") == "PERMISSION_DENIED"
    grpc_failures(secrets, platform, session)
    pasted(secrets, platform, admin, session)
    admin.signingkeys.rotate()
    revoked = admin.inferencesessions.revoke_tokens(session)
    assert revoked.acknowledged
    with pytest.raises(grpc.RpcError) as caught:
        infer(platform, session, made.token)
    secrets.said += [str(caught.value), repr(caught.value)]
    secrets.known["second session token"] = admin.inferencesessions.token(session)
    admin.tokens.revoke(user.token.id)
    with Client(platform.endpoint(), user.secret) as client:
        assert secrets.fails(client.models.query) == "TOKEN_REVOKED"
    # A service that dies and comes back with its secrets says no more about them.
    platform.service("session-manager").kill()
    eventually_sync(
        lambda: not secrets_fail(admin, session), "the session manager is back", timeout=60
    )
    secrets.statuses += [
        str(admin.inferencesessions.status(failed)),
        str(admin.inferencesessions.explain(failed)),
        str(list(admin.inferencesessions.logs(failed))),
    ]
    secrets.said += [
        *secrets.statuses,
        str(admin.inferencesessions.get(session)),
        str(admin.tokens.list()),
        str(admin.signingkeys.list()),
        str(admin.installation()),
        repr(made),
        repr(user),
        repr(admin),
    ]
    command = Podbay(platform.data_dir)
    for arguments in (
        ("status",),
        ("token", "list"),
        ("token", "list", "--json"),
        ("key", "list", "--json"),
        ("session", "list", "--json"),
        ("session", "explain", failed),
        ("session", "status", failed, "--json"),
    ):
        done = command.run(*arguments)
        secrets.said += [done.stdout, done.stderr]


def secrets_fail(admin: Client, session: str) -> bool:
    try:
        admin.inferencesessions.status(session)
    except PodbayError:
        return True
    return False


def infer(platform: Platform, session: str, token: str) -> None:
    with grpc.insecure_channel(platform.endpoint("inference-router")) as channel:
        InferenceRouterServiceStub(channel).Infer(
            router_pb.InferRequest(session_id=session, endpoint="e", json=b"{}"),
            metadata=(("authorization", f"Bearer {token}"),),
            timeout=30,
        )


def grpc_failures(secrets: Secrets, platform: Platform, session: str) -> None:
    for wrong in (platform.token, secrets.known["service token"], BOGUS, NOT_A_TOKEN):
        with pytest.raises(grpc.RpcError) as caught:
            infer(platform, session, wrong)
        error = caught.value
        secrets.said += [str(error), repr(error), str(error.trailing_metadata())]


def pasted(secrets: Secrets, platform: Platform, admin: Client, session: str) -> None:
    """Give a secret where an id belongs, as people do who paste the wrong thing."""
    account, secret = admin.installation().account, secrets.known["user token"]
    token, sessions = secrets.known["session token"], admin.inferencesessions
    for wrong in (secret, token):
        with pytest.raises(grpc.RpcError) as caught:
            infer(platform, wrong, token)
        error = caught.value
        secrets.said += [str(error), repr(error), str(error.trailing_metadata())]
        for call in (admin.nodes.get, admin.nodes.cordon, admin.models.get, sessions.get):
            secrets.fails(call, wrong)
        secrets.fails(lambda replica: list(sessions.logs(session, replica=replica)), wrong)
        secrets.fails(sessions.create, {"account": account, "inferenceService": wrong})
        secrets.fails(admin.tokens.create, wrong)

    def told() -> str | None:
        status = str(admin.inferencesessions.status(session))
        return status if "TOKEN_FOR_OTHER_SESSION" in status else None

    eventually_sync(lambda: told() is not None, "the session shows the call that failed")
    secrets.statuses.append(told() or "")


def test_no_error_status_or_repr_holds_a_secret(after: Secrets) -> None:
    assert len(after.said) > 60
    # What a service is run with is a part of what it is: whoever may see it may see that.
    texts = "\n".join(after.said)
    assert "exit code 3" in texts
    assert after.found_in(texts, but=("secret of the service",)) == []
    statuses = "\n".join(after.statuses)
    assert "the replica fails on purpose" in statuses
    assert after.found_in(statuses) == []


def test_no_log_holds_a_secret(after: Secrets) -> None:
    folder = after.platform.data_dir
    logs = [path for path in folder.rglob("*") if path.is_file() and path.suffix == ".log"]
    names = {path.name for path in logs}
    assert {"registry.log", "session-manager.log", "inference-router.log"} <= names
    text = "\n".join(path.read_text(errors="replace") for path in logs)
    assert "replica" in text
    assert after.found_in(text) == []


def test_no_command_line_or_environment_holds_a_secret(after: Secrets) -> None:
    family = after.platform.family()
    assert len(family) >= 6
    of_replicas = {process.pid for process in after.platform.replica_processes()}
    for process in family:
        try:
            line, variables = " ".join(process.cmdline()), str(process.environ())
        except psutil.NoSuchProcess:
            continue
        assert after.found_in(line) == [], line
        # A replica is given what its service says, and nothing of the platform's.
        but = ("secret of the service",) if process.pid in of_replicas else ()
        assert after.found_in(variables, but=but) == [], line


def test_what_is_kept_holds_no_secret_but_in_its_place(after: Secrets) -> None:
    folder = after.platform.data_dir
    homes = {"admin-token": "admin token", "service-token": "service token"}
    checked = 0
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        checked += 1
        content = path.read_bytes().decode("latin-1")
        # The specification of a service is kept as it was given.
        but = (homes.get(path.name, ""), "secret of the service")
        assert after.found_in(content, but=but) == [], path
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077 or not is_private(path), path
    assert checked > 10
    for name in homes:
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def is_private(path: Path) -> bool:
    return path.name in {"admin-token", "service-token"}


def test_private_keys_are_in_their_database_alone(after: Secrets) -> None:
    folder = after.platform.data_dir
    database = folder / "session-manager" / "session-manager.sqlite3"
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        rows = connection.execute("SELECT private_key FROM signing_keys").fetchall()
    assert len(rows) == 2
    forms = [
        form
        for (raw,) in rows
        for form in (raw, raw.hex().encode(), base64.b64encode(raw), repr(raw).encode())
    ]
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("session-manager.sqlite3"):
            content = path.read_bytes()
            assert not any(form in content for form in forms), path
    assert not any(form.decode("latin-1") in "\n".join(after.said) for form in forms)
