"""The calls of both faces to the registry and the session manager."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from podbay import errors
from podbay.local.mocks import TextCompletion
from podbay.schema.requests import InferenceSessionCreateRequest
from podbay.types import Grant
from podbay.v1 import common_pb2, inference_session_pb2
from podbay.v1 import registry_service_pb2 as registry
from podbay.v1 import session_manager_service_pb2 as sessions
from tests.support.client_faces import AsyncFace, SyncFace
from tests.support.eventually import eventually_sync
from tests.support.fake_router import abort_with, reason_number
from tests.support.fake_services import (
    INTERFACE,
    TIME,
    FakeInstallation,
    model,
    service,
    session,
    status,
)

MODEL = {
    "account": "acct",
    "name": "m",
    "artifact": {"kind": "Mock"},
    "source": {"kind": "Mock"},
    "resources": {},
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
    with face.client(fake.registry.address, timeout=20.0) as made:
        yield made


def unavailable(context: grpc.ServicerContext) -> None:
    abort_with(context, grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "The store is busy.")


def test_the_installation_is_asked_once(client: Any, fake: FakeInstallation) -> None:
    fake.sessions.handlers["ListNodes"] = lambda request, context: sessions.ListNodesResponse(
        nodes=[inference_session_pb2.Node(name="n", state=1, cpus=2)]
    )
    assert client.installation().account == "acct"
    assert [(n.name, n.state) for n in client.nodes.list()] == [("n", "Ready")]
    client.nodes.list()
    assert len(fake.registry.asked("GetInstallation")) == 1
    assert {token for _, _, token in fake.registry.requests} == {"api-token"}


def test_nodes_are_declared_drained_watched_and_withdrawn(
    client: Any, fake: FakeInstallation
) -> None:
    node = inference_session_pb2.Node(
        name="n1",
        state=4,
        gpus=[inference_session_pb2.NodeGpu(id="0", hardware_type="t", replica_id="r")],
        labels={"zone": "a"},
    )
    handlers = fake.sessions.handlers
    handlers["DeclareNode"] = lambda request, context: sessions.DeclareNodeResponse(node=node)
    handlers["DrainNode"] = lambda request, context: sessions.DrainNodeResponse(node=node)
    handlers["UndrainNode"] = lambda request, context: sessions.UndrainNodeResponse(node=node)
    handlers["WithdrawNode"] = lambda request, context: sessions.WithdrawNodeResponse()
    handlers["WatchNodes"] = lambda request, context: iter(
        [
            sessions.WatchNodesResponse(snapshot=True, nodes=[node]),
            sessions.WatchNodesResponse(),
            sessions.WatchNodesResponse(removed=["n1"]),
        ]
    )
    declared = client.nodes.declare(
        {"name": "n1", "engine": "unix:///e", "gpus": [{"id": "0", "hardwareType": "t"}], "cpu": 4}
    )
    (request,) = fake.sessions.asked("DeclareNode")
    assert (request.node.cpu, request.node.gpus[0].hardware_type) == ("4", "t")
    assert (declared.state, declared.labels) == ("Draining", {"zone": "a"})
    assert [(gpu.id, gpu.replica_id, gpu.session_id) for gpu in declared.gpus] == [("0", "r", None)]
    assert client.nodes.drain("n1") == client.nodes.undrain("n1") == declared
    changes = []
    for change in client.nodes.watch():
        changes.append(change)
        if change.removed:
            break
    assert [(c.snapshot, len(c.nodes), c.removed) for c in changes] == [
        (True, 1, ()),
        (False, 0, ("n1",)),
    ]
    client.nodes.withdraw("n1", lost=True)
    (withdrawn,) = fake.sessions.asked("WithdrawNode")
    assert (withdrawn.name, withdrawn.lost) == ("n1", True)
    with pytest.raises(errors.InvalidRequestError, match="engine"):
        client.nodes.declare({"name": "n1", "engine": "http://x"})


def test_a_placement_is_explained_of_what_is_there_and_of_what_is_not(
    client: Any, fake: FakeInstallation
) -> None:
    explanation = inference_session_pb2.PlacementExplanation(
        desired=2,
        placed=1,
        reason=150,
        nodes=[inference_session_pb2.NodeVerdict(node="n1", reasons=["is cordoned"])],
    )
    fake.sessions.handlers["ExplainPlacement"] = lambda request, context: (
        sessions.ExplainPlacementResponse(placement=explanation)
    )
    placement = client.inferencesessions.explain_placement("s1")
    assert (placement.desired, placement.placed) == (2, 1)
    assert placement.reason == "INSUFFICIENT_CAPACITY"
    assert placement.nodes[0].reasons == ("is cordoned",)
    client.inferencesessions.explain_placement(
        {"account": "a", "inferenceService": "i", "replicas": 3}
    )
    first, second = fake.sessions.asked("ExplainPlacement")
    assert first.id == "s1"
    assert (second.id, second.inference_session.replicas) == ("", 3)


def test_get_and_documentation(client: Any, fake: FakeInstallation) -> None:
    fake.registry.handlers["GetModel"] = lambda request, context: registry.GetModelResponse(
        model=model(request.id, metadata={"documentation": {"title": "T"}})
    )
    assert client.models.get("m1").id == "m1"
    documentation = client.models.documentation("m1")
    assert (documentation.title, documentation.entity) == ("T", "m1")


def test_a_create_is_sent_again_with_the_same_request_id(
    client: Any, fake: FakeInstallation
) -> None:
    def create(request: Any, context: Any) -> Any:
        if len(fake.registry.asked("CreateModel")) < 3:
            unavailable(context)
        return registry.CreateModelResponse(model=model("m1"))

    fake.registry.handlers["CreateModel"] = create
    assert client.models.create(MODEL).id == "m1"
    ids = {request.request_id for request in fake.registry.asked("CreateModel")}
    assert len(ids) == 1
    assert len(ids.pop()) == 32


def test_what_is_not_safe_is_not_sent_again(client: Any, fake: FakeInstallation) -> None:
    fake.registry.handlers["CreateApiToken"] = lambda request, context: unavailable(context)
    with pytest.raises(errors.UnavailableError):
        client.tokens.create("acct", grants=[Grant(("models",), ("get",), ("acct",))])
    (request,) = fake.registry.asked("CreateApiToken")
    assert request.grants[0].resources == ["models"]


def test_retries_end(client: Any, fake: FakeInstallation) -> None:
    fake.registry.handlers["GetModel"] = lambda request, context: unavailable(context)
    with pytest.raises(errors.UnavailableError) as caught:
        client.models.get("m1")
    assert caught.value.reason == "STORE_UNAVAILABLE"
    assert len(fake.registry.asked("GetModel")) == 4


def test_other_errors_come_at_once(client: Any, fake: FakeInstallation) -> None:
    with pytest.raises(errors.NotFoundError) as caught:
        client.models.get("m1")
    assert caught.value.reason == "MODEL_NOT_FOUND"
    assert caught.value.status_code == 404
    assert len(fake.registry.asked("GetModel")) == 1


def test_invalid_requests_name_paths_and_are_not_sent(client: Any, fake: FakeInstallation) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        client.models.create({**MODEL, "source": {"kind": "Mock", "wrong": 1}})
    assert [field for field, _ in caught.value.violations] == ["source.wrong"]
    with pytest.raises(ValueError, match="expires"):
        client.inferencesessions.token("s1", expires=TIME.replace(tzinfo=None))
    with pytest.raises(errors.InvalidRequestError):
        client.models.publish("m1", "secret")
    assert fake.registry.requests == fake.sessions.requests == []


def test_query_walks_over_pages_up_to_the_limit(client: Any, fake: FakeInstallation) -> None:
    def page(request: Any, _context: Any) -> Any:
        start = int(request.page.page_token or 0)
        return registry.ListModelsResponse(
            models=[model(f"m{n}") for n in range(start, start + 3)],
            page=common_pb2.PageInfo(next_page_token=str(start + 3) if start < 6 else ""),
        )

    fake.registry.handlers["ListModels"] = page
    assert [m.id for m in client.models.query()] == [f"m{n}" for n in range(9)]
    assert [len(p) for p in client.models.pages(limit=4)] == [3, 1]
    found = client.models.query(
        query={"name": ["a", "b"]}, labels={"k": "v"}, account="acct", limit=1
    )
    assert len(found) == 1
    last = fake.registry.asked("ListModels")[-1]
    assert last.filter.query == '{"name": ["a", "b"]}'
    assert dict(last.filter.labels) == {"k": "v"}
    with pytest.raises(errors.InvalidRequestError):
        client.models.query(colour="red")


def test_labels(client: Any, fake: FakeInstallation) -> None:
    fake.registry.handlers["LabelModel"] = lambda request, context: registry.LabelModelResponse(
        model=model(request.id)
    )
    client.models.label("m1", {})
    assert fake.registry.asked("LabelModel") == []
    client.models.label("m1", {"a": "1", "b": None})
    client.models.publish("m1", "preview")
    client.models.publish("m1", "private")
    first, second, third = fake.registry.asked("LabelModel")
    assert (first.labels["a"].value, first.labels["b"].HasField("value")) == ("1", False)
    assert second.labels["dyff.io/access"].value == "internal"
    assert not third.labels["dyff.io/access"].HasField("value")


def test_a_watch_goes_on_after_a_restart(client: Any, fake: FakeInstallation) -> None:
    def watch(request: Any, context: Any) -> Iterator[Any]:
        if request.after_revision == 0:
            yield registry.WatchModelsResponse(revision=5, type=1, model=model("m1"))
            yield registry.WatchModelsResponse(revision=7)
            abort_with(context, grpc.StatusCode.UNAVAILABLE, "SERVICE_STOPPING", "It stops.")
        else:
            assert request.after_revision == 7
            yield registry.WatchModelsResponse(revision=8, type=3, model=model("m1"))
            abort_with(context, grpc.StatusCode.OUT_OF_RANGE, "REVISION_COMPACTED", "Too old.")

    fake.registry.handlers["WatchModels"] = watch
    changes = client.models.watch(account="acct")
    assert [(c.type, c.revision) for c in (next(changes), next(changes))] == [
        ("created", 5),
        ("deleted", 8),
    ]
    with pytest.raises(errors.ConflictError, match="List again"):
        next(changes)


def test_create_mock_and_process(client: Any, fake: FakeInstallation) -> None:
    answer = registry.CreateLocalInferenceServiceResponse(inference_service=service("s1"))
    fake.registry.handlers["CreateLocalInferenceService"] = lambda request, context: answer
    for given in (TextCompletion, "podbay.local.mocks.TextCompletion"):
        client.inferenceservices.create_mock(given, account="acct", serving={"startTimeout": 2.5})
    client.inferenceservices.create_process(
        ["/bin/serve", "-x"], INTERFACE, account="acct", env={"A": "b"}, working_dir="/srv"
    )
    first, second, third = fake.registry.asked("CreateLocalInferenceService")
    assert first.inference_service == second.inference_service
    assert first.inference_service.name == "podbay.local.mocks.TextCompletion"
    assert first.inference_service.interface.endpoint == "generate"
    assert first.serving.start_timeout.ToMilliseconds() == 2500
    assert third.inference_service.name == "serve"
    assert list(third.inference_service.command) == ["/bin/serve", "-x"]
    assert third.inference_service.working_dir == "/srv"
    with pytest.raises(errors.InvalidRequestError, match="no_such"):
        client.inferenceservices.create_mock("no_such.module.Class", account="acct")


def test_create_session(client: Any, fake: FakeInstallation) -> None:
    fake.sessions.handlers["CreateInferenceSession"] = lambda request, context: (
        sessions.CreateInferenceSessionResponse(inferencesession=session("x"), token="tok")
    )
    request = InferenceSessionCreateRequest(account="acct", inferenceService="s1", replicas=2)
    made = client.inferencesessions.create(request, request_id="mine")
    assert (made.inferencesession.id, made.token, made.session) == ("x", "tok", "tok")
    (sent,) = fake.sessions.asked("CreateInferenceSession")
    assert (sent.request_id, sent.inference_session.replicas) == ("mine", 2)


def test_wait_ready_reports_progress_and_survives_a_lost_stream(
    client: Any, fake: FakeInstallation
) -> None:
    def watch(request: Any, context: Any) -> Iterator[Any]:
        if len(fake.sessions.asked("WatchInferenceSessionStatus")) == 1:
            yield status(request.id, ready=False, explanation="it starts")
            abort_with(context, grpc.StatusCode.UNAVAILABLE, "SERVICE_STOPPING", "It stops.")
        yield status(request.id, ready=True)

    fake.sessions.handlers["WatchInferenceSessionStatus"] = watch
    seen: list[bool] = []
    last = client.inferencesessions.wait_ready("x", progress=lambda s: seen.append(s.ready))
    assert last.ready
    assert seen == [False, True]


def test_wait_ready_tells_why_a_session_failed(client: Any, fake: FakeInstallation) -> None:
    replica = inference_session_pb2.Replica(
        id="r1",
        phase=9,
        reason=reason_number("REPLICA_EXITED"),
        message="The process ended.",
        exit_code=3,
        log_tail=["no such file", "bye"],
    )
    fake.sessions.handlers["WatchInferenceSessionStatus"] = lambda request, context: iter(
        [status(request.id, ready=False, state="Error", explanation="no.", replicas=[replica])]
    )
    with pytest.raises(errors.SessionFailedError) as caught:
        client.inferencesessions.wait_ready("x")
    assert caught.value.metadata["reason"] == "REPLICA_EXITED"
    assert caught.value.metadata["exitCode"] == "3"
    assert "no such file" in str(caught.value)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("SessionExpired", "SESSION_EXPIRED"), ("TerminateCommand", "SESSION_TERMINATED")],
)
def test_wait_ready_ends_with_the_session(
    client: Any, fake: FakeInstallation, reason: str, expected: str
) -> None:
    fake.sessions.handlers["WatchInferenceSessionStatus"] = lambda request, context: iter(
        [status(request.id, ready=False, state="Terminated", reason=reason)]
    )
    with pytest.raises(errors.SessionEndedError) as caught:
        client.inferencesessions.wait_ready("x")
    assert caught.value.reason == expected


def test_wait_ready_names_what_it_waits_for(client: Any, fake: FakeInstallation) -> None:
    leave = threading.Event()

    def watch(request: Any, context: Any) -> Iterator[Any]:
        yield status(request.id, ready=False, explanation="replica 0 waits for a GPU")
        leave.wait(30)

    fake.sessions.handlers["WatchInferenceSessionStatus"] = watch
    with pytest.raises(errors.DeadlineExceededError, match="replica 0 waits for a GPU") as caught:
        client.inferencesessions.wait_ready("x", timeout=0.5)
    leave.set()
    assert isinstance(caught.value, TimeoutError)


def test_logs(client: Any, fake: FakeInstallation) -> None:
    fake.sessions.handlers["StreamInferenceSessionLogs"] = lambda request, context: iter(
        [
            sessions.StreamInferenceSessionLogsResponse(
                lines=[inference_session_pb2.LogLine(replica_id="r", text=t) for t in "ab"]
            )
        ]
    )
    lines = list(client.inferencesessions.logs("x", tail=2))
    assert [line.text for line in lines] == ["a", "b"]
    (request,) = fake.sessions.asked("StreamInferenceSessionLogs")
    assert (request.tail, request.follow, request.HasField("replica_id")) == (2, False, False)


def test_a_restart_does_not_fail_callers(client: Any, fake: FakeInstallation) -> None:
    fake.registry.handlers["GetModel"] = lambda request, context: registry.GetModelResponse(
        model=model(request.id)
    )
    assert client.models.get("m1").id == "m1"
    port = fake.registry.port
    fake.registry.stop()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.models.get, "m2")
        fake.registry.start(port)
        assert waiting.result(timeout=30).id == "m2"


def test_a_registry_that_is_not_there_is_named(
    face: Any, fake: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("podbay._sync.transport", "podbay._async.transport"):
        monkeypatch.setattr(f"{module}.FIRST_CONTACT_SECONDS", 0.2)
    fake.registry.stop()
    with face.client(f"grpc://{fake.registry.address}/") as client:
        began = time.monotonic()
        with pytest.raises(errors.UnavailableError) as caught:
            client.models.get("m1")
        assert time.monotonic() - began < 10
    assert caught.value.reason == "SERVICE_UNREACHABLE"
    assert fake.registry.address in caught.value.message
    assert "podbay up" in str(caught.value)


def test_a_service_that_went_away_is_unreachable_and_not_late(
    face: Any, fake: FakeInstallation
) -> None:
    with face.client(fake.registry.address, timeout=1.0) as client:
        client.installation()
        fake.registry.stop()
        with pytest.raises(errors.UnavailableError) as caught:
            client.models.get("m1")
    assert caught.value.reason == "SERVICE_UNREACHABLE"


def test_a_slow_service_is_late(face: Any, fake: FakeInstallation) -> None:
    leave = threading.Event()
    fake.registry.handlers["GetModel"] = lambda request, context: leave.wait(30)
    with face.client(fake.registry.address, timeout=0.5) as client:
        with pytest.raises(errors.DeadlineExceededError, match="get the model"):
            client.models.get("m1")
        leave.set()


def test_a_closed_client_says_so(face: Any, fake: FakeInstallation) -> None:
    with face.client(fake.registry.address) as client:
        client.installation()
    with pytest.raises(errors.CancelledCallError, match="closed"):
        client.models.get("m1")


def test_failed_calls_leave_no_threads(client: Any, fake: FakeInstallation) -> None:
    before = threading.active_count()
    with ThreadPoolExecutor(4) as pool:

        def fail(_number: int) -> bool:
            try:
                client.models.get("m1")
            except errors.NotFoundError:
                return True
            return False

        assert all(pool.map(fail, range(2_000)))
    eventually_sync(lambda: threading.active_count() - before <= 20, "no threads are left")
