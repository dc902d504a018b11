"""Calls that fail for real, told alike to Python, to grpcurl and on the command line.

The failures of sessions are in docker/test_explained_sessions.py.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from podbay import Client, PodbayError
from podbay.errors import InvalidRequestError
from podbay.schema.adapters import AdapterError
from podbay.schema.platform import InferenceService
from tests.support.eventually import eventually_sync
from tests.support.platform import ROOT, Platform
from tests.support.told import Refusal, assert_alike, assert_in_catalogue, grpcurl
from tests.support.told import infer_with_grpcurl as by_grpcurl
from tests.support.up_command import Podbay

pytestmark = pytest.mark.needs_grpcurl

_EXCHANGE = "podbay.v1.InferenceRouterService/Exchange"


@dataclass(frozen=True)
class Session:
    """A session of a service that fails as it is asked to, and who calls it."""

    platform: Platform
    client: Client
    service: InferenceService
    id: str
    token: str

    @property
    def router(self) -> str:
        """Where the router listens."""
        return self.platform.endpoint("inference-router")

    def fails(self, path: str, body: Any = None, **options: Any) -> PodbayError:
        """Call it with the client, which must fail."""
        with (
            self.client.inferencesessions.client(self.id, self.token, endpoint=path) as calls,
            pytest.raises(PodbayError) as caught,
        ):
            calls.infer({} if body is None else body, **options)
        return caught.value

    def refused(self, path: str = "echo", body: bytes = b"{}") -> Refusal | Any:
        """Call it with grpcurl."""
        return by_grpcurl(self.router, self.token, self.id, path, body)

    def command(self, *arguments: str) -> dict[str, Any]:
        """Call it on the command line, which must fail; returns what it says."""
        podbay = Podbay(self.platform.data_dir)
        done = podbay.run("infer", self.id, *arguments, "--json")
        assert done.returncode, done.stdout
        told: dict[str, Any] = json.loads(done.stderr)["error"]
        return told

    def raw(self, path: str, *arguments: str) -> dict[str, Any]:
        """Call a path on the command line, which must fail."""
        return self.command("{}", "--raw", "--endpoint", path, *arguments)


@pytest.fixture(scope="module")
def troubled(platform: Platform) -> Iterator[Session]:
    with platform.client() as client:
        account = client.installation().account
        service = client.inferenceservices.create_process(
            [sys.executable, str(ROOT / "tests/support/replica_troubles.py")],
            {
                "endpoint": "echo",
                "outputSchema": {"arrowSchema": ""},
                "inputPipeline": [{"kind": "Select", "configuration": {"fields": ["text"]}}],
            },
            account=account,
            name="troubled",
            serving={"max_concurrency": 1, "queue_length": 0, "readiness_path": "/ready"},
        )
        made = client.inferencesessions.create({"account": account, "inferenceService": service.id})
        session = Session(platform, client, service, made.inferencesession.id, made.token)
        client.inferencesessions.wait_ready(session.id, timeout=60)
        yield session
        client.inferencesessions.terminate(session.id)


def test_a_replica_answers_500(troubled: Session) -> None:
    error = troubled.fails("fail")
    assert (error.reason, error.metadata["httpStatus"]) == ("REPLICA_REFUSED", "500")
    assert "the weights of layer 7 are all zero" in error.message
    assert_alike(error, troubled.refused("fail"))
    told = troubled.raw("fail")
    assert (told["reason"], told["message"]) == (error.reason, error.message)
    assert told["metadata"] == error.metadata


def test_bad_json(troubled: Session) -> None:
    """Python sends none: what has no JSON is refused before, as the same kind of error."""
    refusal = troubled.refused(body=b'{"a": ')
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.metadata["line"], refusal.metadata["column"]) == (
        "MALFORMED_JSON",
        "1",
        "7",
    )
    assert "line 1, column 7" in refusal.message
    assert_in_catalogue(refusal.reason, refusal.metadata)
    error = troubled.fails("echo", {"a": float("nan")})
    assert isinstance(error, InvalidRequestError)
    assert [path for path, _ in error.violations] == ["body"]
    assert "line 1 column 7" in troubled.command('{"a": ')["message"]


def test_a_failing_adapter_step(troubled: Session) -> None:
    """Pipelines run at the client: its exception, and the command line, name step and member."""
    sessions = troubled.client.inferencesessions
    with (
        sessions.client(troubled.id, troubled.token, interface=troubled.service.interface) as calls,
        pytest.raises(AdapterError) as caught,
    ):
        calls.infer({"other": 1})
    assert (caught.value.step, caught.value.kind) == (0, "Select")
    text = "Adapter 0 (Select): the item has no member 'text'"
    assert str(caught.value) == text
    told = troubled.command('{"other": 1}')
    assert (told["message"], told["metadata"]) == (text, {"step": "0", "kind": "Select"})
    # What is no configuration at all is refused by the registry, with the path of the step.
    refusal = grpcurl(
        troubled.platform.endpoint(),
        troubled.platform.token,
        "podbay.v1.RegistryService/CreateLocalInferenceService",
        {
            "inferenceService": {
                "account": troubled.service.account,
                "name": "podbay.local.mocks.Echo",
                "interface": {
                    "endpoint": "e",
                    "outputSchema": {"arrowSchema": "AAAA"},
                    "inputPipeline": [{"kind": "Select", "configuration": "not json"}],
                },
            }
        },
    )
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "INVALID_REQUEST", refusal
    assert "interface.inputPipeline.0.configuration" in refusal.message


def test_an_oversize_body(troubled: Session) -> None:
    """The client does not send what no router takes."""
    text = "x" * (64 << 20)
    error = troubled.fails("echo", text)
    assert error.reason == "BODY_TOO_LARGE"
    assert error.metadata == {"size": str(len(text) + 2), "limit": str(64 << 20)}
    refusal = troubled.refused(body=json.dumps(text).encode())
    assert_alike(error, refusal, same_message=False)
    for told in (error.message, refusal.message):
        assert str(len(text) + 2) in told
        assert "Send less at once" in told


def test_a_deadline(troubled: Session) -> None:
    error = troubled.fails("slow", timeout=0.5)
    assert error.reason == "DEADLINE_EXCEEDED"
    call = {"id": 1, "endpoint": "slow", "json": base64.b64encode(b"{}").decode()}
    answer = grpcurl(
        troubled.router, troubled.token, _EXCHANGE, {"calls": [{**call, "timeout": "0.5s"}]}
    )
    (result,) = answer["results"]
    told = result["error"]
    assert told["reason"] == f"ERROR_REASON_{error.reason}"
    assert (told["message"], told["metadata"]) == (error.message, error.metadata)
    assert_in_catalogue(error.reason, error.metadata)
    assert troubled.raw("slow", "--timeout", "2s")["reason"] == error.reason


def test_overload(troubled: Session) -> None:
    """One call runs, which is all that the replica takes, and none may wait."""

    def overloaded() -> bool:
        told = troubled.refused()
        return isinstance(told, Refusal) and told.reason == "QUEUE_FULL"

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(troubled.fails, "slow", timeout=15)
        eventually_sync(overloaded, "the replica is at its limit")
        error = troubled.fails("echo")
        refusal = troubled.refused()
        told = troubled.raw("echo")
        assert running.result().reason == "DEADLINE_EXCEEDED"
    assert error.reason == "QUEUE_FULL"
    assert error.retry_after
    assert_alike(error, refusal)
    assert (told["reason"], told["message"]) == (error.reason, error.message)
    assert "run more replicas" in error.message


def test_a_foreign_token(troubled: Session) -> None:
    sessions = troubled.client.inferencesessions
    other = sessions.create(
        {"account": troubled.service.account, "inferenceService": troubled.service.id}
    )
    with pytest.raises(PodbayError) as caught:
        sessions.client(troubled.id, other.token, endpoint="echo")
    assert caught.value.reason == "TOKEN_FOR_OTHER_SESSION"
    refusal = by_grpcurl(troubled.router, other.token, troubled.id)
    assert_alike(caught.value, refusal, same_message=False)
    for told in (caught.value.message, refusal.message):
        assert "Each session has tokens of its own" in told
    sessions.terminate(other.inferencesession.id)


def test_an_expired_token(troubled: Session) -> None:
    """Of a session, which the client renews by itself; and of the API, which it cannot."""
    soon = datetime.now(UTC) + timedelta(seconds=1.5)
    session_token = troubled.client.inferencesessions.token(troubled.id, expires=soon)
    api_token = troubled.client.tokens.create(troubled.service.account, expires=soon).secret
    registry = troubled.platform.endpoint()
    method = "podbay.v1.RegistryService/GetInstallation"

    def both() -> list[object]:
        return [
            by_grpcurl(troubled.router, session_token, troubled.id),
            grpcurl(registry, api_token, method, {}),
        ]

    eventually_sync(lambda: all(isinstance(one, Refusal) for one in both()), "they have ended")
    of_session, of_api = both()
    assert isinstance(of_session, Refusal)
    assert of_session.reason == "TOKEN_EXPIRED"
    assert "Ask for a new one" in of_session.message
    sessions = troubled.client.inferencesessions
    with sessions.client(troubled.id, session_token, endpoint="echo") as calls:
        assert calls.infer({"again": True}) == [{"again": True}]
    with Client(registry, api_token) as client, pytest.raises(PodbayError) as caught:
        client.installation()
    assert_alike(caught.value, of_api)
    assert "podbay token create" in caught.value.message


def test_a_terminated_session(troubled: Session) -> None:
    sessions = troubled.client.inferencesessions
    made = sessions.create(
        {"account": troubled.service.account, "inferenceService": troubled.service.id}
    )
    ended = Session(
        troubled.platform,
        troubled.client,
        troubled.service,
        made.inferencesession.id,
        made.token,
    )
    sessions.terminate(ended.id)

    def told() -> bool:
        # The routers learn of the end a moment after the caller.
        refusal = ended.refused()
        return isinstance(refusal, Refusal) and refusal.reason == "SESSION_TERMINATED"

    eventually_sync(told, "the router refuses calls of the ended session")
    error = ended.fails("echo")
    assert error.reason == "SESSION_TERMINATED"
    assert_alike(error, ended.refused())
    assert ended.raw("echo")["reason"] == error.reason
    explained = Podbay(ended.platform.data_dir).ok("session", "explain", ended.id)
    for text in (error.message, explained):
        assert "The session was terminated by command. Create a new one to go on." in text
