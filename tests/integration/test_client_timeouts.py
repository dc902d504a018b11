"""Each call of both faces has a timeout of its own, which covers all its tries."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from podbay import errors
from podbay.v1 import registry_service_pb2 as registry
from tests.support.client_faces import AsyncFace, SyncFace
from tests.support.fake_router import abort_with
from tests.support.fake_services import INTERFACE, FakeInstallation, model

MODEL = {
    "account": "acct",
    "name": "m",
    "artifact": {"kind": "Mock"},
    "source": {"kind": "Mock"},
    "resources": {},
}
SERVICE = {
    "account": "acct",
    "name": "s",
    "interface": INTERFACE,
    "runner": {
        "kind": "container",
        "resources": {},
        "image": {"host": "h", "name": "n", "digest": "sha256:" + "0" * 64},
    },
}
SESSION = {"account": "acct", "inferenceService": "s1"}

# What each method is called with. A method that is not here fails the test below.
ARGUMENTS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "models.create": ((MODEL,), {}),
    "inferenceservices.create": ((SERVICE,), {}),
    "inferenceservices.create_mock": (
        ("podbay.local.mocks.TextCompletion",),
        {"account": "acct"},
    ),
    "inferenceservices.create_process": ((["serve"], INTERFACE), {"account": "acct"}),
    "inferencesessions.create": ((SESSION,), {}),
    **{
        f"{group}.{name}": (("x", *more), {})
        for group in ("models", "inferenceservices", "inferencesessions")
        for name, more in {
            "get": (),
            "delete": (),
            "label": ({"a": "1"},),
            "publish": ("public",),
            "documentation": (),
            "edit_documentation": ({"documentation": {"title": "T"}},),
            "terminate": (),
            "ready": (),
            "status": (),
            "explain": (),
            "token": (),
            "revoke_tokens": (),
            "wait_ready": (),
            "watch_status": (),
            "logs": (),
            "files": (),
            "finalize": (),
            "workflow_logs": (),
            "stream_workflow_logs": (),
        }.items()
    },
    **{
        f"nodes.{name}": (("n",), {})
        for name in ("get", "cordon", "uncordon", "drain", "undrain", "withdraw")
    },
    "nodes.declare": (({"name": "n", "engine": "unix:///run/docker.sock"},), {}),
    "models.create_from_volume": (
        (Path(__file__).parent,),
        {"account": "acct", "name": "m", "resources": {}, "include": ["__init__.py"]},
    ),
    "inferencesessions.explain_placement": (("x",), {}),
    "accounts.create": (("acct",), {}),
    "accounts.quota": (("acct",), {}),
    "accounts.usage": (("acct",), {}),
    "accounts.set_quota": (("acct",), {"sessions": 1}),
    "tokens.create": (("acct",), {}),
    "tokens.revoke": (("x",), {}),
    "signingkeys.rotate": ((), {}),
}
# What sends nothing, and what takes as long as its files are large: a transfer that stalls ends by
# itself.
NOT_SENT = {
    "inferencesessions.client",
    "models.download",
    "models.upload_volume",
    "models.uplink",
    "tokens.inspect_unverified",
}


@pytest.fixture(params=[SyncFace, AsyncFace], ids=["sync", "async"])
def face(request: Any) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def fake() -> Iterator[FakeInstallation]:
    made = FakeInstallation()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def client(face: Any, fake: FakeInstallation) -> Iterator[Any]:
    with face.client(fake.registry.address, timeout=60.0) as made:
        yield made


def methods(client: Any) -> Iterator[tuple[str, Any]]:
    groups = ("models", "inferenceservices", "inferencesessions", "nodes", "accounts", "tokens")
    for group in (*groups, "signingkeys", "audit"):
        inner = getattr(client, group)
        for name in dir(getattr(inner, "_inner", inner)):
            if not name.startswith("_") and f"{group}.{name}" not in NOT_SENT:
                yield f"{group}.{name}", getattr(inner, name)


def called(method: Any, *args: Any, **options: Any) -> None:
    result = method(*args, **options)
    if inspect.isgenerator(result):
        list(result)


def hang(fake: FakeInstallation) -> threading.Event:
    """Let everything but GetInstallation wait."""
    leave = threading.Event()

    def wait(method: Any, _request: Any, context: grpc.ServicerContext) -> Any:
        ended = threading.Event()
        context.add_callback(ended.set)
        while context.is_active() and not leave.is_set():
            ended.wait(0.02)
        return iter(()) if method.server_streaming else GetMessageClass(method.output_type)()

    for service in (fake.registry, fake.sessions):
        for method in service._descriptor.methods:
            if method.name != "GetInstallation":
                service.handlers[method.name] = partial(wait, method)
    return leave


def test_every_method_ends_in_its_time(client: Any, fake: FakeInstallation, tmp_path: Path) -> None:
    leave = hang(fake)
    arguments = {**ARGUMENTS, "models.download_logs": (("x", tmp_path / "log"), {})}
    client.installation()
    for service in (client.models, client.nodes):
        with pytest.raises(errors.DeadlineExceededError):  # connects
            service.get("x", timeout=0.5)
    seen = []
    for name, method in methods(client):
        args, options = arguments.get(name, ((), {}))
        began = time.monotonic()
        with pytest.raises(errors.DeadlineExceededError):
            called(method, *args, **options, timeout=0.1)
        assert time.monotonic() - began < 10, name
        seen.append(name)
    leave.set()
    assert len(seen) >= 45, seen


def test_the_time_covers_the_question_where_a_service_is(
    client: Any, fake: FakeInstallation
) -> None:
    leave = threading.Event()
    fake.registry.handlers["GetInstallation"] = lambda request, context: leave.wait(30)
    began = time.monotonic()
    with pytest.raises(errors.DeadlineExceededError, match="get the installation"):
        client.nodes.list(timeout=0.3)
    with pytest.raises(errors.DeadlineExceededError, match="get the installation"):
        client.installation(timeout=0.3)
    assert time.monotonic() - began < 10
    leave.set()


def test_the_time_covers_further_tries(client: Any, fake: FakeInstallation) -> None:
    def busy(_request: Any, context: grpc.ServicerContext) -> None:
        abort_with(context, grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "It is busy.")

    fake.registry.handlers["GetModel"] = busy
    with pytest.raises(errors.UnavailableError):
        client.models.get("m", timeout=30.0)
    assert len(fake.registry.asked("GetModel")) == 4
    # A pause that would last longer than the time is not begun.
    with pytest.raises(errors.UnavailableError):
        client.models.get("m", timeout=0.04)
    assert len(fake.registry.asked("GetModel")) <= 5


def test_the_time_of_a_query_covers_all_pages(client: Any, fake: FakeInstallation) -> None:
    pages = 0

    def page(request: Any, _context: Any) -> Any:
        nonlocal pages
        pages += 1
        answer = registry.ListModelsResponse(models=[model("m")])
        answer.page.next_page_token = "more"
        return answer

    fake.registry.handlers["ListModels"] = page
    with pytest.raises(errors.DeadlineExceededError):
        client.models.query(timeout=0.5)
    assert pages > 1
    # Of `pages` it counts for each.
    walk = client.models.pages(timeout=20.0)
    for _ in range(3):
        assert len(next(walk)) == 1
    walk.close()


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf"), "1", True])
def test_a_timeout_is_a_number_above_zero(
    client: Any, fake: FakeInstallation, timeout: Any
) -> None:
    with pytest.raises(errors.InvalidRequestError, match="timeout"):
        client.models.get("m", timeout=timeout)
    with pytest.raises(errors.InvalidRequestError, match="timeout"):
        list(client.inferencesessions.logs("x", timeout=timeout))
    assert fake.registry.requests == []
