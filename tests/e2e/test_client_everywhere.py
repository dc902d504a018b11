"""One suite over both faces of the client, against `podbay up` and against a local platform."""

from __future__ import annotations

import dataclasses
import pickle
import time
from collections.abc import Iterator
from typing import Any

import pytest

from podbay import errors
from podbay.local import LocalPlatform, mocks
from podbay.schema.platform import EntityIdentifier
from tests.support.client_faces import AsyncFace, SyncFace
from tests.support.platform import Platform

pytestmark = pytest.mark.timeout(180)

TEXT = {"text": "Öpen the pod bay doors, Hal!"}
MODEL = {
    "name": "m",
    "artifact": {"kind": "Mock"},
    "source": {"kind": "Mock"},
    "resources": {},
}


@pytest.fixture(scope="module")
def local_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    with LocalPlatform(tmp_path_factory.mktemp("local")) as platform:
        yield platform


@pytest.fixture(params=["sync", "async"])
def face(request: Any) -> Iterator[Any]:
    made: Any = SyncFace() if request.param == "sync" else AsyncFace()
    yield made
    made.close()


@pytest.fixture(params=["remote", "local"])
def client(request: Any, face: Any) -> Iterator[Any]:
    if request.param == "remote":
        platform: Platform = request.getfixturevalue("platform")
        made = face.client(platform.endpoint(), platform.token, timeout=30.0)
    else:
        local: LocalPlatform = request.getfixturevalue("local_platform")
        if isinstance(face, SyncFace):
            # The platform is a client itself, with methods of its own.
            yield local
            return
        made = face.client(local.endpoint, local._token, timeout=30.0)
    with made:
        yield made


@pytest.fixture
def account(client: Any) -> str:
    return str(client.installation().account)


@pytest.fixture
def session(client: Any, account: str) -> Iterator[tuple[Any, Any]]:
    """A ready session of a mock, and a client of it."""
    service = client.inferenceservices.create_mock(
        mocks.StreamingTextCompletion, account=account, env={"PODBAY_MOCK_SEED": "1"}
    )
    made = client.inferencesessions.create({"account": account, "inferenceService": service.id})
    session_id = made.inferencesession.id
    client.inferencesessions.wait_ready(session_id, timeout=60)
    yield (
        made,
        client.inferencesessions.client(session_id, made.token, interface=service.interface),
    )
    client.inferencesessions.terminate(session_id)


def test_models_from_the_first_to_the_last(client: Any, account: str) -> None:
    model = client.models.create({**MODEL, "account": account}, timeout=20)
    assert client.models.get(model.id) == model
    assert client.get(EntityIdentifier(kind="Model", id=model.id)) == model
    assert client.apigroup("Model").get(model.id) == model
    client.models.label(model.id, {"a": "1", "b": "2"})
    client.models.label(model.id, {"b": None})
    client.models.publish(model.id, "preview")
    assert client.models.get(model.id).labels == {"a": "1", "dyff.io/access": "internal"}
    client.models.edit_documentation(model.id, {"documentation": {"title": "Tïtle"}})
    assert client.models.documentation(model.id).title == "Tïtle"
    assert client.models.query(id=model.id, labels={"a": "1"})[0].id == model.id
    assert client.raw.models.get(model.id)["labels"]["a"] == "1"
    assert client.models.delete(model.id).status == "Deleted"
    assert client.models.delete(model.id).status == "Deleted"


def test_a_request_id_makes_one_resource(client: Any, account: str) -> None:
    request = {**MODEL, "account": account}
    request_id = f"once-{time.time_ns()}"
    first = client.models.create(request, request_id=request_id)
    assert client.models.create(request, request_id=request_id).id == first.id
    assert client.models.create(request).id != first.id
    with pytest.raises(errors.ConflictError):
        client.models.create({**request, "name": "other"}, request_id=request_id)


def test_lists_are_pages_and_begin_after_a_position(client: Any, account: str) -> None:
    label = {"suite": f"t{time.time_ns()}"}
    for name in "cbade":
        made = client.models.create({**MODEL, "account": account, "name": name})
        client.models.label(made.id, label)
    everything = client.models.query(labels=label, orderBy="name")
    assert [model.name for model in everything] == list("abcde")
    assert [
        model.name for page in client.models.pages(labels=label, orderBy="name") for model in page
    ] == list("abcde")
    third = everything[2]
    after = client.raw.models.query(
        {"labels": label, "orderBy": "name", "after": [third.name, third.id], "limit": 1}
    )
    assert [model["name"] for model in after] == ["d"]
    for order_by in ("creationTime", "id", "status"):
        ordered = client.models.query(labels=label, orderBy=order_by, order="descending")
        seen = ordered[1]
        value = {
            "creationTime": seen.model_dump(mode="json")["creationTime"],
            "id": seen.id,
            "status": seen.status,
        }[order_by]
        rest = client.models.query(
            labels=label, orderBy=order_by, order="descending", after=(value, seen.id)
        )
        assert rest == ordered[2:], order_by
    with pytest.raises(errors.InvalidRequestError, match="orderBy"):
        client.models.query(after=("a", "b"))


def test_ready_is_a_verdict_with_reasons(client: Any, account: str, session: Any) -> None:
    made, _ = session
    sessions = client.inferencesessions
    assert sessions.ready(made.inferencesession.id) is True
    assert "takes calls" in str(sessions.explain(made.inferencesession.id))
    broken = client.inferenceservices.create_process(
        ["no-such-program"], made.inferencesession.inferenceService.interface, account=account
    )
    failing = sessions.create({"account": account, "inferenceService": broken.id})
    session_id = failing.inferencesession.id
    with pytest.raises(errors.SessionFailedError) as caught:
        sessions.wait_ready(session_id, timeout=60)
    assert sessions.ready(session_id) is False
    explained = sessions.explain(session_id)
    assert "COMMAND_NOT_FOUND" in explained.text
    assert caught.value.metadata["reason"] == "COMMAND_NOT_FOUND"
    calls = sessions.client(session_id, failing.token, endpoint="e")
    with pytest.raises(errors.SessionFailedError):
        calls.infer({}, wait=True, timeout=30)
    with pytest.raises(errors.NotFoundError):
        sessions.ready("no-such-session")


def test_calls(client: Any, session: Any) -> None:
    _, calls = session
    whole = calls.infer(TEXT)
    pieces = [piece["text"] for piece in calls.stream(TEXT)]
    assert "".join(pieces).startswith(TEXT["text"])
    assert len(whole) >= 1
    bodies = [{"text": f"é{number}"} for number in range(20)]
    results = list(calls.infer_many(bodies, max_in_flight=4))
    assert [result.index for result in results] == list(range(20))
    assert all(result.error is None for result in results)


def test_bodies_that_cannot_be_sent(client: Any, session: Any) -> None:
    _, calls = session
    with pytest.raises(ValueError, match="NaN"):
        calls.infer({"text": float("nan")})
    with pytest.raises(errors.InvalidRequestError) as caught:
        calls.infer({"text": "x" * ((64 << 20) + 1)})
    assert (caught.value.reason, caught.value.status_code) == ("BODY_TOO_LARGE", 413)
    with pytest.raises(errors.ReplicaError):
        calls.infer({"other": 1})
    assert calls.infer(TEXT)


def test_logs(client: Any, session: Any) -> None:
    made, calls = session
    calls.infer(TEXT)
    session_id = made.inferencesession.id
    lines = list(client.inferencesessions.logs(session_id))
    assert lines
    assert all(line.time is not None for line in lines)
    answer = client.inferencesessions.workflow_logs(session_id, since="1h", limit=1)
    assert [entry.message for entry in answer.logs] == [lines[-1].text]
    for wrong in ({"since": "soon"}, {"limit": 0}):
        with pytest.raises(errors.InvalidRequestError):
            client.inferencesessions.workflow_logs(session_id, **wrong)


def test_every_result_can_be_pickled(client: Any, account: str, session: Any) -> None:
    made, calls = session
    session_id = made.inferencesession.id
    results: list[Any] = [
        made,
        client.installation(),
        client.models.create({**MODEL, "account": account}),
        client.inferenceservices.query(limit=1)[0],
        client.inferencesessions.get(session_id),
        client.inferencesessions.status(session_id),
        client.inferencesessions.explain(session_id),
        next(client.inferencesessions.watch_status(session_id)),
        next(client.inferencesessions.logs(session_id)),
        client.inferencesessions.workflow_logs(session_id),
        next(client.inferencesessions.watch(id=session_id)),
        client.nodes.list(),
        client.accounts.list(),
        client.tokens.list(),
        list(calls.infer_many([TEXT, {"other": 1}])),
    ]
    for result in results:
        copy = pickle.loads(pickle.dumps(result))
        assert type(copy) is type(result)
        if isinstance(result, list) and result and hasattr(result[0], "error"):
            assert [r.items for r in copy] == [r.items for r in result]
            assert str(copy[1].error) == str(result[1].error)
        else:
            assert copy == result
        assert not dataclasses.is_dataclass(result) or dataclasses.asdict(result)


def test_tokens_of_the_client_are_not_those_of_calls(client: Any, session: Any) -> None:
    made, _ = session
    header, claims = client.tokens.inspect_unverified(made.token)
    assert (header["alg"], claims["sid"]) == ("EdDSA", made.inferencesession.id)
    wrong = client.inferencesessions.client(made.inferencesession.id, "wrong", endpoint="e")
    with pytest.raises(errors.AuthenticationError):
        wrong.infer(TEXT)
