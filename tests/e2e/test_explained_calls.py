"""Calls that fail for real, told alike to Python, to grpcurl, and by `podbay session explain`.

Each entry of `SCENARIOS` lets one kind of failure happen and returns what all three were told, and
one test compares them. The failures of sessions are in docker/test_explained_sessions.py; that none
of the list is missing is seen to in tests/unit/test_explained_failures.py.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from podbay import Client, PodbayError
from podbay.errors import REASONS, InvalidRequestError
from podbay.schema.adapters import AdapterError
from podbay.schema.platform import InferenceService
from podbay.types import CallFailure, Grant
from tests.support.eventually import eventually_sync
from tests.support.platform import ROOT, Platform
from tests.support.told import CATALOGUE, Refusal, assert_alike, assert_in_catalogue, grpcurl
from tests.support.told import infer_with_grpcurl as by_grpcurl
from tests.support.up_command import Podbay

pytestmark = pytest.mark.needs_grpcurl

_EXCHANGE = "podbay.v1.InferenceRouterService/Exchange"
_STATUS = "podbay.v1.SessionManagerService/GetInferenceSessionStatus"


@dataclass(frozen=True)
class Told:
    """What each of the three was told of one kind of failure.

    Attributes:
        python: The exception.
        grpcurl: What grpcurl printed: the error of its own call, or the failure in the session's
            status, where the call never leaves the client.
        explained: The failure as the session's status has it; `Session.shows` has found the same in
            the text of `podbay session explain`.
    """

    python: PodbayError | AdapterError
    grpcurl: Refusal | dict[str, Any]
    explained: CallFailure


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

    def shows(self, error: PodbayError | AdapterError | Refusal) -> CallFailure:
        """Check that everybody who looks at the session is told of a failure that its caller saw.

        Args:
            error: What the caller was told: nothing of its kind has failed since.

        Returns:
            The failure, as Python has it.
        """
        message = str(error) if isinstance(error, AdapterError) else error.message
        # What a replica says of a body that it refuses only the caller is told.
        own = error.metadata.get("httpStatus", "500").startswith("5")
        hidden = {"notStarted", "renewal", *(() if own else ("detail",))}
        evidence = {key: value for key, value in error.metadata.items() if key not in hidden}

        def found() -> CallFailure | None:
            status = self.client.inferencesessions.status(self.id)
            for one in status.call_failures:
                told = (one.reason, one.message, dict(one.metadata))
                if told == (error.reason, message, evidence):
                    return one
            return None

        # Routers tell once a second.
        eventually_sync(lambda: found() is not None, f"the status tells of {error.reason}")
        failure = found()
        assert failure is not None
        assert failure.count > 0
        text = Podbay(self.platform.data_dir).ok("session", "explain", self.id)
        _, _, of_calls = text.partition("calls that failed lately:\n")
        assert f"  {error.reason}\n" in of_calls
        for part in (*message.splitlines(), REASONS[error.reason].hint or ""):
            assert part in of_calls
        assert text.rstrip() == text.rstrip().replace(self.token, "")
        printed = self.printed(error.reason)
        assert (printed["message"], printed.get("metadata", {})) == (message, evidence)
        return failure

    def printed(self, reason: str) -> dict[str, Any]:
        """Return a failure as grpcurl prints it of the session's status."""
        answer = grpcurl(
            self.platform.endpoint("session-manager"), self.platform.token, _STATUS, {"id": self.id}
        )
        (printed,) = [
            one
            for one in answer["status"]["callFailures"]
            if one["reason"] == f"ERROR_REASON_{reason}"
        ]
        found: dict[str, Any] = printed
        return found

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


def replica_answers_500(troubled: Session) -> Told:
    error = troubled.fails("fail")
    assert (error.reason, error.metadata["httpStatus"]) == ("REPLICA_REFUSED", "500")
    assert "the weights of layer 7 are all zero" in error.message
    refusal = troubled.refused("fail")
    assert_alike(error, refusal)
    told = troubled.raw("fail")
    assert (told["reason"], told["message"]) == (error.reason, error.message)
    assert told["metadata"] == error.metadata

    def all_three() -> bool:
        failures = troubled.client.inferencesessions.status(troubled.id).call_failures
        return [one.count for one in failures if one.reason == error.reason] == [3]

    eventually_sync(all_three, "each of the three calls is counted once")
    return Told(error, refusal, troubled.shows(error))


def bad_json(troubled: Session) -> Told:
    """Python sends none: what has no JSON is refused before, for the same reason."""
    error = troubled.fails("echo", {"a": float("nan")})
    assert isinstance(error, InvalidRequestError)
    assert [path for path, _ in error.violations] == ["body"]
    troubled.shows(error)
    refusal = troubled.refused(body=b'{"a": ')
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.metadata["line"], refusal.metadata["column"]) == (
        "MALFORMED_JSON",
        "1",
        "7",
    )
    assert "line 1, column 7" in refusal.message
    assert_in_catalogue(refusal.reason, refusal.metadata)
    for told in (error.message, refusal.message):
        assert told.startswith("The body is not JSON: ")
    assert "line 1 column 7" in troubled.command('{"a": ')["message"]
    return Told(error, refusal, troubled.shows(refusal))


def failing_adapter_step(troubled: Session) -> Told:
    """Pipelines run at the client: who calls with grpcurl has none, and sees it in the status."""
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
    assert (told["reason"], told["message"], told["metadata"], told["wayOut"]) == (
        "ADAPTER_FAILED",
        text,
        {"step": "0", "kind": "Select"},
        caught.value.hint,
    )
    assert_in_catalogue(told["reason"], told["metadata"])
    explained = troubled.shows(caught.value)
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
    return Told(caught.value, troubled.printed("ADAPTER_FAILED"), explained)


def oversize_body(troubled: Session) -> Told:
    """The client does not send what no router takes."""
    text = "x" * (64 << 20)
    error = troubled.fails("echo", text)
    assert error.reason == "BODY_TOO_LARGE"
    assert error.metadata == {"size": str(len(text) + 2), "limit": str(64 << 20)}
    troubled.shows(error)
    refusal = troubled.refused(body=json.dumps(text).encode())
    assert_alike(error, refusal, same_message=False)
    for told in (error.message, refusal.message):
        assert str(len(text) + 2) in told
        assert "Send less at once" in told
    return Told(error, refusal, troubled.shows(refusal))


def deadline(troubled: Session) -> Told:
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
    explained = troubled.shows(error)
    assert troubled.raw("slow", "--timeout", "2s")["reason"] == error.reason
    return Told(error, told, explained)


def overload(troubled: Session) -> Told:
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
    return Told(error, refusal, troubled.shows(error))


def foreign_token(troubled: Session) -> Told:
    """Python sees it before anything is sent; the session that was called has what grpcurl did."""
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
    return Told(caught.value, refusal, troubled.shows(refusal))


def expired_token(troubled: Session) -> Told:
    """Of a session, which a client renews where it may; and of the API, which it cannot."""
    account = troubled.service.account
    soon = datetime.now(UTC) + timedelta(seconds=1.5)
    session_token = troubled.client.inferencesessions.token(troubled.id, expires=soon)
    api_token = troubled.client.tokens.create(account, expires=soon).secret
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
    with Client(registry, api_token) as client, pytest.raises(PodbayError) as caught:
        client.installation()
    assert_alike(caught.value, of_api)
    assert "podbay token create" in caught.value.message
    # A client that may make no token of the session tells why it needs one.
    grants = [Grant(("models",), ("get",), (account,), ())]
    may_not = troubled.client.tokens.create(account, grants=grants).secret
    with (
        Client(registry, may_not) as client,
        client.inferencesessions.client(troubled.id, session_token, endpoint="echo") as calls,
        pytest.raises(PodbayError) as of_python,
    ):
        calls.infer({})
    error = of_python.value
    assert "inferencesessions" in error.metadata.pop("renewal")
    assert_alike(error, of_session)
    explained = troubled.shows(error)
    sessions = troubled.client.inferencesessions
    with sessions.client(troubled.id, session_token, endpoint="echo") as calls:
        assert calls.infer({"again": True}) == [{"again": True}]
    return Told(error, of_session, explained)


def terminated_session(troubled: Session) -> Told:
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
    refusal = ended.refused()
    assert_alike(error, refusal)
    assert ended.raw("echo")["reason"] == error.reason
    explained = Podbay(ended.platform.data_dir).ok("session", "explain", ended.id)
    for text in (error.message, explained):
        assert "The session was terminated by command. Create a new one to go on." in text
    return Told(error, refusal, ended.shows(error))


SCENARIOS: Final[Mapping[str, Callable[[Session], Told]]] = {
    "expired token": expired_token,
    "foreign token": foreign_token,
    "terminated session": terminated_session,
    "bad JSON": bad_json,
    "failing adapter step": failing_adapter_step,
    "oversize body": oversize_body,
    "deadline": deadline,
    "overload": overload,
    "replica answers 500": replica_answers_500,
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_failed_call_is_told_alike(name: str, troubled: Session) -> None:
    told = SCENARIOS[name](troubled)
    printed = told.grpcurl.reason if isinstance(told.grpcurl, Refusal) else told.grpcurl["reason"]
    reasons = {told.python.reason, printed.removeprefix("ERROR_REASON_"), told.explained.reason}
    assert reasons == {told.python.reason}
    row = CATALOGUE[told.python.reason]
    assert row.meaning
    assert row.evidence
    assert row.way_out


def test_a_token_that_is_not_genuine_shows_nowhere(troubled: Session) -> None:
    """Whoever makes up a token may name any session in it."""
    head, claims, signature = troubled.token.split(".")
    middle = len(signature) // 2
    other = "A" if signature[middle] != "A" else "B"
    forged = f"{head}.{claims}.{signature[:middle]}{other}{signature[middle + 1 :]}"
    refusal = by_grpcurl(troubled.router, forged, troubled.id)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "TOKEN_INVALID"
    # What fails after it is told, and so would it have been.
    expired = troubled.fails("fail")
    troubled.shows(expired)
    failures = troubled.client.inferencesessions.status(troubled.id).call_failures
    assert "TOKEN_INVALID" not in {one.reason for one in failures}
