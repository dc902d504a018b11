"""A client for tests of the command line: it remembers what it was asked, and answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Self

from podbay.schema.platform import InferenceSession, Status
from podbay.types import Installation, LogLine, ReplicaStatus, SessionStatus

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SERVICE = {
    "id": "5" * 32,
    "account": "acct",
    "name": "podbay.local.mocks.TextCompletion",
    "interface": {"endpoint": "generate", "outputSchema": {"arrowSchema": ""}},
    "runner": {"kind": "mock", "resources": {}},
}
SESSION_ID = "7" * 32


def make_session(**changes: Any) -> InferenceSession:
    return InferenceSession.model_validate(
        {
            "id": SESSION_ID,
            "account": "acct",
            "status": "Admitted",
            "creationTime": NOW,
            "inferenceService": SERVICE,
            "replicas": 2,
            **changes,
        }
    )


def make_replica(**changes: Any) -> ReplicaStatus:
    values: dict[str, Any] = {
        "id": "a" * 32,
        "index": 0,
        "attempt": 1,
        "phase": "Ready",
        "reason": None,
        "message": "",
        "node": "local",
        "driver": "process",
        "exit_code": None,
        "log_tail": (),
        "address": "127.0.0.1:9000",
        "process_id": 4711,
        "creation_time": NOW,
        "transition_time": NOW,
        "ready_time": NOW,
        "retry_time": None,
    }
    return ReplicaStatus(**{**values, **changes})


def make_status(*replicas: ReplicaStatus, **changes: Any) -> SessionStatus:
    ready = sum(replica.phase == "Ready" for replica in replicas)
    values: dict[str, Any] = {
        "session_id": SESSION_ID,
        "status": "Admitted",
        "reason": None,
        "message": None,
        "ready": ready > 0,
        "ready_replicas": ready,
        "desired_replicas": 2,
        "replicas": replicas,
        "explanation": "",
        "revision": 1,
    }
    return SessionStatus(**{**values, **changes})


class FakeCollection:
    """Answers each method with what `answers` holds for it: a value, a function, or an error."""

    def __init__(self, name: str, calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> None:
        self._name = name
        self._calls = calls
        self.answers: dict[str, Any] = {}

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._calls.append((f"{self._name}.{method}", args, kwargs))
            answer = self.answers[method]
            if isinstance(answer, Exception):
                raise answer
            return answer(*args, **kwargs) if callable(answer) else answer

        return call


class FakeCalls:
    """The client of a session's calls."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.bodies: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def infer(self, body: Any, **_: Any) -> list[Any]:
        self.bodies.append(body)
        return self.items

    def stream(self, body: Any, **_: Any) -> Iterator[Any]:
        self.bodies.append(body)
        yield from self.items


class FakeClient:
    """What the command line uses of `podbay.Client`."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.connected_to: list[tuple[str, str]] = []
        self.models = FakeCollection("models", self.calls)
        self.inferenceservices = FakeCollection("inferenceservices", self.calls)
        self.inferencesessions = FakeCollection("inferencesessions", self.calls)
        self.nodes = FakeCollection("nodes", self.calls)
        self.signingkeys = FakeCollection("signingkeys", self.calls)
        self.accounts = FakeCollection("accounts", self.calls)
        self.tokens = FakeCollection("tokens", self.calls)
        self.inferencesessions.answers.update(
            get=lambda _: make_session(),
            status=lambda _: make_status(make_replica()),
            token="session-token",
            terminate=lambda _: Status(status="Terminated", reason="TerminateCommand"),
            logs=lambda *_, **__: iter([LogLine("a" * 32, "hello", 6)]),
        )

    def connect(self, endpoint: str, token: str) -> Any:
        self.connected_to.append((endpoint, token))
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def installation(self) -> Installation:
        return Installation("i", "0.1.0", "127.0.0.1:2", "127.0.0.1:3", "acct")
