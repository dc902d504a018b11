"""Models and inference services, over a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from podbay.schema import convert, platform
from podbay.v1 import common_pb2, inference_service_pb2, model_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay_registry.fetcher import FetchOptions
from tests.support.registry import (
    Registry,
    image_service,
    local_service,
    mock_model,
    running_registry,
)
from tests.support.rpc import details_of

CODE = grpc.StatusCode


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with running_registry(tmp_path) as running:
        yield running


async def failure(call: Any) -> tuple[grpc.StatusCode, str, list[str]]:
    """Return the code, the reason and the paths of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info, bad = details_of(caught.value)
    paths = [violation.field for violation in bad.field_violations] if bad else []
    return caught.value.code(), info.reason, paths


def create_model(request_id: str = "", **fields: Any) -> pb.CreateModelRequest:
    return pb.CreateModelRequest(model=mock_model(**fields), request_id=request_id)


def create_local(request_id: str = "", **fields: Any) -> pb.CreateLocalInferenceServiceRequest:
    return pb.CreateLocalInferenceServiceRequest(
        inference_service=local_service(**fields), request_id=request_id
    )


async def test_a_mock_model_is_ready(registry: Registry) -> None:
    model = await registry.model()
    entity = convert.from_proto(model)
    assert len(entity.id) == 32
    assert (entity.status, entity.message) == ("Ready", None)
    assert (entity.kind, entity.schemaVersion) == ("Model", "0.1")
    got = await registry.call("GetModel", pb.GetModelRequest(id=model.id))
    assert got.model == model


async def test_a_registry_that_does_not_fetch_says_so(tmp_path: Path) -> None:
    hub = model_pb2.ModelSourceHuggingFaceHub(repo_id="a/b", revision="main")
    source = model_pb2.ModelSource(kind="HuggingFaceHub", hugging_face_hub=hub)
    volume = model_pb2.ModelArtifact(kind="Volume", volume=model_pb2.Volume())
    async with running_registry(tmp_path, fetch=FetchOptions(enabled=False)) as registry:
        model = await registry.model(source=source, artifact=volume)
        assert model.status == "Created"
        assert "does not fetch" in model.message
        # What has no files is ready: the service brings them.
        model = await registry.model(source=source)
        assert (model.status, "Nothing is fetched" in model.message) == ("Ready", True)


async def test_a_local_service_is_a_mock_runner_with_its_options(registry: Registry) -> None:
    request = create_local(
        name="echo",
        command=["python", "serve.py"],
        args=["--fast"],
        env=[inference_service_pb2.EnvVar(name="PORT", value="8000")],
        working_dir="/srv",
    )
    request.serving.readiness_path = "/up"
    request.serving.start_timeout.FromMilliseconds(2500)
    request.serving.max_concurrency = 4
    request.serving.safe_to_retry = True
    answer = await registry.call("CreateLocalInferenceService", request)
    entity = convert.from_proto(answer.inference_service)
    assert json.loads(entity.runner.json()) == {
        "kind": "mock",
        "resources": {},
        "command": ["python", "serve.py"],
        "args": ["--fast"],
        "env": [{"name": "PORT", "value": "8000"}],
        "workingDir": "/srv",
        "nodes": 1,
    }
    assert {a.key: a.value for a in entity.annotations} == {
        "podbay.dev/readiness-path": "/up",
        "podbay.dev/start-timeout": "2.5",
        "podbay.dev/max-concurrency": "4",
        "podbay.dev/safe-to-retry": "true",
    }
    assert entity.status == "Ready"


async def test_an_image_service_embeds_its_model(registry: Registry) -> None:
    model = await registry.model()
    request = pb.CreateInferenceServiceRequest(inference_service=image_service(model=model.id))
    service = (await registry.call("CreateInferenceService", request)).inference_service
    assert service.status == "Ready"
    assert service.model == model_pb2.ForeignModel(
        id=model.id, account="admin", name=model.name, artifact=model.artifact
    )
    got = await registry.call("GetInferenceService", pb.GetInferenceServiceRequest(id=service.id))
    assert got.inference_service == service


async def test_a_service_of_a_model_that_is_not_there(registry: Registry) -> None:
    for model_id in ("", "nonsense", "0" * 32):
        call = registry.call("CreateLocalInferenceService", create_local(model=model_id))
        assert (await failure(call))[:2] == (CODE.NOT_FOUND, "MODEL_NOT_FOUND")
    model = await registry.model()
    await registry.call("DeleteModel", pb.DeleteModelRequest(id=model.id))
    call = registry.call("CreateLocalInferenceService", create_local(model=model.id))
    assert (await failure(call))[:2] == (CODE.FAILED_PRECONDITION, "REFERENCE_DELETED")


async def test_an_account_must_exist(registry: Registry) -> None:
    calls = {
        "CreateModel": create_model(account="nobody"),
        "CreateLocalInferenceService": create_local(account="nobody"),
        "CreateInferenceService": pb.CreateInferenceServiceRequest(
            inference_service=image_service(account="nobody")
        ),
    }
    for method, request in calls.items():
        found = await failure(registry.call(method, request))
        assert found[:2] == (CODE.NOT_FOUND, "ACCOUNT_NOT_FOUND"), method


def _image(**fields: Any) -> inference_service_pb2.InferenceServiceRunner:
    runner = inference_service_pb2.InferenceServiceRunner()
    runner.CopyFrom(image_service().runner)
    for name, value in fields.items():
        setattr(runner.image, name, value)
    return runner


@pytest.mark.parametrize(
    ("method", "request_message", "path"),
    [
        ("CreateModel", pb.CreateModelRequest(), "model.artifact"),
        ("CreateModel", create_model(account=""), "model.account"),
        ("CreateModel", create_model(account="-x"), "model.account"),
        ("CreateModel", create_model(name=""), "model.name"),
        ("CreateModel", create_model(schema_version="2"), "model.schemaVersion"),
        ("CreateModel", create_model(source=model_pb2.ModelSource(kind="x")), "model.source.kind"),
        (
            "CreateModel",
            create_model(source=model_pb2.ModelSource(kind="GitLFS")),
            "model.source.gitLFS",
        ),
        (
            "CreateModel",
            create_model(resources=common_pb2.ResourceRequirements(memory="many")),
            "model.resources.memory",
        ),
        ("CreateModel", create_model(request_id="x" * 129), "requestId"),
        ("CreateLocalInferenceService", create_local(name="x"), "inferenceService.name"),
        (
            "CreateInferenceService",
            pb.CreateInferenceServiceRequest(
                inference_service=image_service(runner=_image(digest="sha256:0"))
            ),
            "inferenceService.runner.image.digest",
        ),
        (
            "CreateInferenceService",
            pb.CreateInferenceServiceRequest(
                inference_service=image_service(),
                serving=inference_service_pb2.ServingOptions(max_concurrency=0),
            ),
            "serving.maxConcurrency",
        ),
        (
            "LabelModel",
            pb.LabelModelRequest(id="x", labels={"a_b": common_pb2.LabelChange(value="1")}),
            "labels.a_b",
        ),
        (
            "EditModelDocumentation",
            pb.EditModelDocumentationRequest(
                id="x", documentation=common_pb2.DocumentationEdit(title="x" * 141)
            ),
            "documentation.title",
        ),
        (
            "EditModelDocumentation",
            pb.EditModelDocumentationRequest(
                id="x", documentation=common_pb2.DocumentationEdit(clear=["titel"])
            ),
            "documentation.clear.0",
        ),
        (
            "ListModels",
            pb.ListModelsRequest(filter=common_pb2.ResourceFilter(query="{")),
            "filter.query",
        ),
        (
            "ListModels",
            pb.ListModelsRequest(filter=common_pb2.ResourceFilter(inference_service="x")),
            "filter.inferenceService",
        ),
        (
            "ListModels",
            pb.ListModelsRequest(page=common_pb2.PageRequest(page_size=1001)),
            "page.pageSize",
        ),
        (
            "ListModels",
            pb.ListModelsRequest(page=common_pb2.PageRequest(order_by="size")),
            "page.orderBy",
        ),
    ],
)
async def test_bad_requests_name_the_field(
    registry: Registry, method: str, request_message: Any, path: str
) -> None:
    code, reason, paths = await failure(registry.call(method, request_message))
    assert (code, reason) == (CODE.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert any(found == path or found.startswith(f"{path}.") for found in paths), paths


@pytest.mark.parametrize("given", ["", "x", "\0", "ö" * 500, "../..", "0" * 32])
async def test_unknown_ids_of_any_form(registry: Registry, given: str) -> None:
    change = {"a": common_pb2.LabelChange(value="1")}
    calls: dict[str, tuple[Any, str]] = {
        "GetModel": (pb.GetModelRequest(id=given), "MODEL_NOT_FOUND"),
        "LabelModel": (pb.LabelModelRequest(id=given, labels=change), "MODEL_NOT_FOUND"),
        "EditModelDocumentation": (
            pb.EditModelDocumentationRequest(id=given),
            "MODEL_NOT_FOUND",
        ),
        "DeleteModel": (pb.DeleteModelRequest(id=given), "MODEL_NOT_FOUND"),
        "GetInferenceService": (
            pb.GetInferenceServiceRequest(id=given),
            "INFERENCE_SERVICE_NOT_FOUND",
        ),
        "LabelInferenceService": (
            pb.LabelInferenceServiceRequest(id=given, labels=change),
            "INFERENCE_SERVICE_NOT_FOUND",
        ),
        "EditInferenceServiceDocumentation": (
            pb.EditInferenceServiceDocumentationRequest(id=given),
            "INFERENCE_SERVICE_NOT_FOUND",
        ),
        "DeleteInferenceService": (
            pb.DeleteInferenceServiceRequest(id=given),
            "INFERENCE_SERVICE_NOT_FOUND",
        ),
    }
    for method, (request, reason) in calls.items():
        assert (await failure(registry.call(method, request)))[:2] == (CODE.NOT_FOUND, reason)


async def test_creates_are_idempotent_with_a_request_id(registry: Registry) -> None:
    first = await registry.call("CreateModel", create_model("r1"))
    again = await registry.call("CreateModel", create_model("r1"))
    assert again == first
    call = registry.call("CreateModel", create_model("r1", name="other"))
    assert (await failure(call))[:2] == (CODE.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    # The same id for another kind of resource is another request.
    service = await registry.call("CreateLocalInferenceService", create_local("r1"))
    other = create_local("r1")
    other.serving.max_concurrency = 2
    call = registry.call("CreateLocalInferenceService", other)
    assert (await failure(call))[1] == "REQUEST_ID_REUSED"
    assert await registry.call("CreateLocalInferenceService", create_local("r1")) == service
    # Many at once make one.
    answers = await asyncio.gather(
        *(registry.call("CreateModel", create_model("r2")) for _ in range(20))
    )
    assert len({answer.model.id for answer in answers}) == 1
    listed = await registry.call("ListModels", pb.ListModelsRequest())
    assert len(listed.models) == 2


async def test_a_repeated_create_succeeds_though_its_model_is_gone(registry: Registry) -> None:
    model = await registry.model()
    request = create_local("r1", model=model.id)
    first = await registry.call("CreateLocalInferenceService", request)
    await registry.call("DeleteModel", pb.DeleteModelRequest(id=model.id))
    assert await registry.call("CreateLocalInferenceService", request) == first


async def test_labels_are_set_and_removed(registry: Registry) -> None:
    model = await registry.model()

    async def label(**changes: str | None) -> dict[str, str]:
        labels = {
            key.replace("__", "/").replace("_", "."): common_pb2.LabelChange(value=value)
            for key, value in changes.items()
        }
        request = pb.LabelModelRequest(id=model.id, labels=labels)
        return dict((await registry.call("LabelModel", request)).model.labels)

    assert await label(dyff_io__access="public", a="1") == {"dyff.io/access": "public", "a": "1"}
    assert await label(a=None, b="", missing=None) == {"dyff.io/access": "public", "b": ""}
    found = common_pb2.ResourceFilter(labels={"dyff.io/access": "public"})
    listed = await registry.call("ListModels", pb.ListModelsRequest(filter=found))
    assert [each.id for each in listed.models] == [model.id]
    assert await label() == {"dyff.io/access": "public", "b": ""}
    many = {f"k{n}": common_pb2.LabelChange(value="1") for n in range(255)}
    call = registry.call("LabelModel", pb.LabelModelRequest(id=model.id, labels=many))
    assert (await failure(call))[2] == ["labels"]


async def test_documentation_is_edited_and_cleared(registry: Registry) -> None:
    service = await registry.service()

    async def edit(**fields: Any) -> common_pb2.Documentation:
        request = pb.EditInferenceServiceDocumentationRequest(
            id=service.id, documentation=common_pb2.DocumentationEdit(**fields)
        )
        answer = await registry.call("EditInferenceServiceDocumentation", request)
        documentation: common_pb2.Documentation = answer.documentation
        return documentation

    assert await edit(title="HAL", full_page="# HAL") == common_pb2.Documentation(
        title="HAL", full_page="# HAL"
    )
    assert await edit(summary="Sings", clear=["fullPage"]) == common_pb2.Documentation(
        title="HAL", summary="Sings"
    )
    got = await registry.call("GetInferenceService", pb.GetInferenceServiceRequest(id=service.id))
    assert got.inference_service.metadata.documentation.title == "HAL"


async def test_deleting_marks_and_is_idempotent(registry: Registry) -> None:
    service = await registry.service()
    request = pb.DeleteInferenceServiceRequest(id=service.id)
    first = await registry.call("DeleteInferenceService", request)
    assert first.status == common_pb2.Status(status="Deleted", reason="DeleteCommand")
    got = await registry.call("GetInferenceService", pb.GetInferenceServiceRequest(id=service.id))
    assert got.inference_service.status == "Deleted"
    assert got.inference_service.HasField("last_transition_time")
    assert await registry.call("DeleteInferenceService", request) == first
    after = await registry.call("GetInferenceService", pb.GetInferenceServiceRequest(id=service.id))
    assert after == got
    listed = await registry.call("ListInferenceServices", pb.ListInferenceServicesRequest())
    assert [each.status for each in listed.inference_services] == ["Deleted"]


async def test_services_are_selected_by_their_model(registry: Registry) -> None:
    model = await registry.model(name="hal")
    mine = await registry.service(model=model.id)
    await registry.service()
    for selected in (
        common_pb2.ResourceFilter(model=model.id),
        common_pb2.ResourceFilter(model_name="hal"),
        common_pb2.ResourceFilter(query=json.dumps({"model": ["x", model.id]})),
        common_pb2.ResourceFilter(query='[{"model.name": "hal"}, {"runner.kind": "mock"}]'),
    ):
        request = pb.ListInferenceServicesRequest(filter=selected)
        listed = await registry.call("ListInferenceServices", request)
        assert [each.id for each in listed.inference_services] == [mine.id]


async def test_paging_is_stable_under_inserts(registry: Registry) -> None:
    made = [(await registry.model(name=f"m{n}")).id for n in range(10)]
    found: list[str] = []
    revisions = set()
    page = common_pb2.PageRequest(page_size=3)
    while True:
        got = await registry.call("ListModels", pb.ListModelsRequest(page=page))
        found += [model.id for model in got.models]
        revisions.add(got.page.revision)
        page.page_token = got.page.next_page_token
        if not page.page_token:
            break
        if len(found) < 9:
            await registry.model(name="late")
    assert found[:10] == made
    assert len(set(found)) == len(found) == 12
    # A watch from the revision of the list misses nothing of it.
    assert revisions == {10}
    other = pb.ListModelsRequest(page=common_pb2.PageRequest(page_token="x"))
    assert (await failure(registry.call("ListModels", other)))[1] == "INVALID_PAGE_TOKEN"


class Watch:
    """A watch over models."""

    def __init__(self, registry: Registry, after: int, **selected: Any) -> None:
        request = pb.WatchModelsRequest(
            after_revision=after, filter=common_pb2.ResourceFilter(**selected)
        )
        self.call = registry.stub.WatchModels(request, metadata=registry.metadata())

    async def next(self) -> pb.WatchModelsResponse:
        async with asyncio.timeout(30):
            response: pb.WatchModelsResponse = await self.call.read()
        return response

    async def next_change(self) -> pb.WatchModelsResponse:
        while True:
            response = await self.next()
            if response.type != common_pb2.CHANGE_TYPE_UNSPECIFIED:
                return response


async def test_a_watch_sends_what_is_there_and_every_change(registry: Registry) -> None:
    model = await registry.model()
    await registry.service()
    watch = Watch(registry, 0)
    first = await watch.next()
    assert (first.revision, first.type) == (1, common_pb2.CHANGE_TYPE_CREATED)
    assert first.model == model
    progress = await watch.next()
    assert (progress.revision, progress.HasField("model")) == (2, False)
    labels = {"a": common_pb2.LabelChange(value="1")}
    await registry.call("LabelModel", pb.LabelModelRequest(id=model.id, labels=labels))
    await registry.call("DeleteModel", pb.DeleteModelRequest(id=model.id))
    updated, deleted = await watch.next_change(), await watch.next_change()
    assert (updated.revision, updated.type) == (3, common_pb2.CHANGE_TYPE_UPDATED)
    assert dict(updated.model.labels) == {"a": "1"}
    assert (deleted.revision, deleted.type) == (4, common_pb2.CHANGE_TYPE_DELETED)
    assert deleted.model.status == "Deleted"
    watch.call.cancel()


async def test_services_are_watched_too(registry: Registry) -> None:
    request = pb.WatchInferenceServicesRequest()
    call = registry.stub.WatchInferenceServices(request, metadata=registry.metadata())
    assert (await call.read()).revision == 0
    service = await registry.service()
    change = await call.read()
    assert (change.revision, change.type) == (1, common_pb2.CHANGE_TYPE_CREATED)
    assert change.inference_service == service
    call.cancel()


async def test_a_watch_shows_what_the_filter_and_the_token_select(registry: Registry) -> None:
    token = await registry.account("acme")
    watch = Watch(registry, 0, name="wanted")
    request = pb.WatchModelsRequest()
    own = registry.stub.WatchModels(request, metadata=registry.metadata(token))
    await watch.next()
    await own.read()
    await registry.model(name="other")
    await registry.model(token, account="acme", name="mine")
    wanted = await registry.model(name="wanted")
    assert (await watch.next_change()).model == wanted
    assert (await own.read()).model.name == "mine"
    watch.call.cancel()
    own.cancel()


async def test_a_watch_from_a_bad_revision(registry: Registry) -> None:
    assert (await failure(Watch(registry, -1).next()))[2] == ["afterRevision"]
    assert (await failure(Watch(registry, 99).next()))[:2] == (
        CODE.OUT_OF_RANGE,
        "REVISION_COMPACTED",
    )


async def test_a_watch_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with running_registry(tmp_path) as registry:
        watch = Watch(registry, 0)
        await watch.next()
        before = await registry.model(name="before")
        last = (await watch.next_change()).revision
        missed = await registry.model(name="missed")
        # The server does not wait for the watch, and tells it why it ends.
        stopped = asyncio.create_task(_drain(watch))
    assert await stopped == "SERVICE_STOPPING"
    async with running_registry(tmp_path) as registry:
        watch = Watch(registry, last)
        assert (await watch.next_change()).model == missed
        after = await registry.model(name="after")
        assert (await watch.next_change()).model == after
        watch.call.cancel()
        listed = await registry.call("ListModels", pb.ListModelsRequest())
        assert [model.id for model in listed.models] == [before.id, missed.id, after.id]


async def _drain(watch: Watch) -> str:
    while True:
        try:
            await watch.next()
        except grpc.aio.AioRpcError as error:
            return details_of(error)[0].reason


async def test_what_is_written_reads_as_the_json_interface(registry: Registry) -> None:
    model = await registry.model()
    request = pb.CreateInferenceServiceRequest(inference_service=image_service(model=model.id))
    service = (await registry.call("CreateInferenceService", request)).inference_service
    text = convert.from_proto(service).json()
    assert platform.InferenceService.model_validate_json(text).json() == text
    assert json.loads(text)["model"] == {
        "id": model.id,
        "account": "admin",
        "name": "hal-9000",
        "artifact": {"kind": "Mock"},
    }


def mounting(model_id: str, account: str) -> pb.CreateInferenceServiceRequest:
    request = pb.CreateInferenceServiceRequest(inference_service=image_service(account=account))
    mount = request.inference_service.runner.volume_mounts.add(
        kind="Data", name="weights", mount_path="/w"
    )
    mount.data.source.kind, mount.data.source.id = "Model", model_id
    return request


async def test_a_service_mounts_only_models_that_its_maker_may_get(registry: Registry) -> None:
    model = await registry.model()
    await registry.call("CreateInferenceService", mounting(model.id, "admin"))
    stranger = await registry.account("theirs")
    call = registry.call("CreateInferenceService", mounting(model.id, "theirs"), token=stranger)
    assert (await failure(call))[:2] == (CODE.NOT_FOUND, "MODEL_NOT_FOUND")
    for model_id in ("", "../x", "0" * 32):
        call = registry.call("CreateInferenceService", mounting(model_id, "admin"))
        assert (await failure(call))[:2] == (CODE.NOT_FOUND, "MODEL_NOT_FOUND")
    await registry.call("DeleteModel", pb.DeleteModelRequest(id=model.id))
    call = registry.call("CreateInferenceService", mounting(model.id, "admin"))
    assert (await failure(call))[:2] == (CODE.FAILED_PRECONDITION, "REFERENCE_DELETED")
