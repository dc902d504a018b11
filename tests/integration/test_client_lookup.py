"""Resources by identifier, by kind, and as plain JSON; what a token says; why a session stands."""

from __future__ import annotations

import base64
import enum
import json
import pickle
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from podbay import errors
from podbay.schema import requests
from podbay.schema.platform import EntityIdentifier
from podbay.v1 import common_pb2, inference_session_pb2
from podbay.v1 import registry_service_pb2 as registry
from podbay.v1 import session_manager_service_pb2 as sessions
from tests.support.client_faces import AsyncFace, SyncFace
from tests.support.fake_router import reason_number
from tests.support.fake_services import FakeInstallation, model, service, session, status


@pytest.fixture(params=[SyncFace, AsyncFace], ids=["sync", "async"])
def face(request: Any) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def fake() -> Iterator[FakeInstallation]:
    made = FakeInstallation()
    made.start()
    registry_answers = made.registry.handlers
    registry_answers["GetModel"] = lambda request, context: registry.GetModelResponse(
        model=model(request.id, metadata={"documentation": {"title": "T"}})
    )
    registry_answers["GetInferenceService"] = lambda request, context: (
        registry.GetInferenceServiceResponse(inference_service=service(request.id))
    )
    made.sessions.handlers["GetInferenceSession"] = lambda request, context: (
        sessions.GetInferenceSessionResponse(inference_session=session(request.id))
    )
    yield made
    made.stop()


@pytest.fixture
def client(face: Any, fake: FakeInstallation) -> Iterator[Any]:
    with face.client(fake.registry.address, timeout=20.0) as made:
        yield made


class Kind(enum.Enum):
    MODEL = "Model"


KINDS = ["Model", "InferenceService", "InferenceSession"]


@pytest.mark.parametrize("kind", KINDS)
def test_get_by_identifier(client: Any, kind: str) -> None:
    for entity in (
        EntityIdentifier(kind=kind, id="x"),
        {"kind": kind, "id": "x"},
        SimpleNamespace(kind=kind, id="x"),
    ):
        found = client.get(entity, timeout=10)
        assert (found.kind, found.id) == (kind, "x")
    assert client.get(found).id == "x"
    assert client.get(SimpleNamespace(kind=Kind.MODEL, id="m")).kind == "Model"


def test_groups_by_kind(client: Any) -> None:
    for kind in KINDS:
        assert client.apigroup(kind).get("y").kind == kind
    assert client.apigroup(Kind.MODEL).get("y").kind == "Model"


@pytest.mark.parametrize("kind", ["Dataset", "model", "", None, 3, ["Model"]])
def test_other_kinds_are_refused(client: Any, fake: FakeInstallation, kind: Any) -> None:
    with pytest.raises(KeyError) as caught:
        client.apigroup(kind)
    assert isinstance(caught.value, errors.InvalidRequestError)
    assert "Model, InferenceService, InferenceSession" in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).violations == caught.value.violations
    if isinstance(kind, str):
        with pytest.raises(errors.UnknownKindError):
            client.get({"kind": kind, "id": "x"})
    assert fake.registry.requests == []


@pytest.mark.parametrize("entity", [{}, {"kind": "Model"}, "x", {"kind": "Model", "id": 3}, None])
def test_what_identifies_nothing_is_refused(client: Any, entity: Any) -> None:
    with pytest.raises(errors.InvalidRequestError, match="kind and an id"):
        client.get(entity)


def test_endpoint_and_timeout(client: Any, fake: FakeInstallation) -> None:
    assert (client.endpoint, client.timeout) == (fake.registry.address, 20.0)


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def test_a_token_is_inspected(client: Any, fake: FakeInstallation) -> None:
    header, claims = {"alg": "EdDSA"}, {"sid": "x", "sub": "é"}
    token = f"{part(header)}.{part(claims)}.not-a-signature"
    assert client.tokens.inspect_unverified(token) == (header, claims)
    for other in ("prefix.secret", "", "a.b.c", f"{part(1)}.{part({})}.c", "é.é.é"):
        with pytest.raises(errors.InvalidRequestError, match="three readable parts"):
            client.tokens.inspect_unverified(other)
    assert fake.registry.requests == fake.sessions.requests == []


def test_raw_gives_plain_json(client: Any, fake: FakeInstallation) -> None:
    plain = client.raw.models.get("m1")
    assert (type(plain), plain["kind"], plain["creationTime"]) == (
        dict,
        "Model",
        "2030-01-01T00:00:00Z",
    )
    assert client.raw.models.documentation("m1")["title"] == "T"
    assert client.raw.inferencesessions.get("x")["inferenceService"]["name"] == "s"
    assert json.loads(json.dumps(plain)) == plain


def test_raw_edits(client: Any, fake: FakeInstallation) -> None:
    fake.registry.handlers["LabelModel"] = lambda request, context: registry.LabelModelResponse(
        model=model(request.id)
    )
    fake.registry.handlers["EditModelDocumentation"] = lambda request, context: (
        registry.EditModelDocumentationResponse(
            documentation=common_pb2.Documentation(title=request.documentation.title)
        )
    )
    client.raw.models.label("m1", {"labels": {"a": "1", "b": None}})
    (sent,) = fake.registry.asked("LabelModel")
    assert (sent.labels["a"].value, sent.labels["b"].HasField("value")) == ("1", False)
    for bad in ({"a": "1"}, {"labels": None}, {"labels": {"a b": "1"}}):
        with pytest.raises(errors.InvalidRequestError):
            client.raw.models.label("m1", bad)
    edited = client.raw.models.edit_documentation(
        "m1", {"documentation": {"title": "new", "summary": None}}
    )
    assert edited["title"] == "new"
    (sent,) = fake.registry.asked("EditModelDocumentation")
    assert list(sent.documentation.clear) == ["summary"]


def test_raw_sessions(client: Any, fake: FakeInstallation) -> None:
    answers = fake.sessions.handlers
    answers["GetInferenceSessionStatus"] = lambda request, context: (
        sessions.GetInferenceSessionStatusResponse(status=status(request.id, ready=True).status)
    )
    answers["CreateSessionToken"] = lambda request, context: sessions.CreateSessionTokenResponse(
        token="tok"
    )
    answers["TerminateInferenceSession"] = lambda request, context: (
        sessions.TerminateInferenceSessionResponse(status=common_pb2.Status(status="Terminated"))
    )
    answers["CreateInferenceSession"] = lambda request, context: (
        sessions.CreateInferenceSessionResponse(inferencesession=session("x"), token="tok")
    )
    raw = client.raw.inferencesessions
    assert raw.ready("x") == {"ready": True}
    assert raw.token("x") == {"token": "tok"}
    assert raw.terminate("x") == {"status": "Terminated"}
    made = raw.create({"account": "acct", "inferenceService": "s1"})
    assert (made["inferencesession"]["id"], made["token"]) == ("x", "tok")


QUERY = {"orderBy": "name", "order": "descending", "limit": 3, "after": '["b", "id"]'}


@pytest.mark.parametrize(
    "request_of",
    [
        lambda: QUERY,
        lambda: requests.ModelQueryRequest(**QUERY),
        lambda: {**QUERY, "after": ("b", "id")},
    ],
)
def test_raw_queries_have_an_order_a_limit_and_a_position(
    client: Any, fake: FakeInstallation, request_of: Any
) -> None:
    fake.registry.handlers["ListModels"] = lambda request, context: registry.ListModelsResponse(
        models=[model("m1"), model("m2")]
    )
    assert [m["id"] for m in client.raw.models.query(request_of())] == ["m1", "m2"]
    (sent,) = fake.registry.asked("ListModels")
    assert (sent.page.order_by, sent.page.page_size) == ("name", 3)
    assert sent.page.order == common_pb2.SORT_ORDER_DESCENDING
    assert (sent.page.after.value, sent.page.after.id) == ("b", "id")
    assert len(client.raw.models.query()) == 2


@pytest.mark.parametrize(
    "query",
    [
        {"after": '["b", "id"]'},
        {"orderBy": "name", "after": "b"},
        {"order": "up"},
        {"limit": 0},
        {"colour": "red"},
        {1: 2},
        "text",
    ],
)
def test_wrong_queries_are_refused(client: Any, fake: FakeInstallation, query: Any) -> None:
    with pytest.raises(errors.InvalidRequestError):
        client.raw.models.query(query)
    assert fake.registry.asked("ListModels") == []


def test_a_session_is_explained(client: Any, fake: FakeInstallation) -> None:
    replica = inference_session_pb2.Replica(
        id="r1",
        phase=9,
        attempt=2,
        reason=reason_number("REPLICA_EXITED"),
        message="The process ended.",
        exit_code=137,
        log_tail=["no such file", "bye"],
    )
    stands = status("x", ready=False, state="Error", explanation="no.", replicas=[replica]).status
    fake.sessions.handlers["GetInferenceSessionStatus"] = lambda request, context: (
        sessions.GetInferenceSessionStatusResponse(status=stands)
    )
    explained = client.inferencesessions.explain("x")
    assert explained.status.status == "Error"
    assert str(explained) == explained.text
    for evidence in ("takes no calls", "REPLICA_EXITED", "signal 9", "try 2", "| no such file"):
        assert evidence in explained.text
