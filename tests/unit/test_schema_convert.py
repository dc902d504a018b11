"""Conversion between models and messages: the pairs, the limits of the wire, and edits."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from google.protobuf.descriptor import Descriptor
from pydantic import BaseModel, ValidationError

from podbay.schema import convert, platform, requests
from podbay.schema._wire import EXPLICITLY_EMPTY, Plan, plan_for
from podbay.schema.serving import ServingOptions
from podbay.v1 import (
    common_pb2,
    inference_service_pb2,
    inference_session_pb2,
    model_pb2,
    registry_service_pb2,
    session_manager_service_pb2,
)
from tests.support.schema_vectors import valid_instance

_SESSION = {"account": "a", "inferenceService": "s"}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _pairs(model: type[BaseModel], message: Descriptor) -> Iterator[tuple[Any, Descriptor]]:
    """The pair and all pairs within it, found by JSON names and not by the conversion's plans."""
    yield model, message
    wire = {field.json_name: field for field in message.fields}
    for name, info in model.model_fields.items():
        field = wire.get(info.alias or name)
        inner = next(_models_in(info.annotation), None)
        if field is None or inner is None or field.message_type is None:
            continue
        target = field.message_type
        if target.GetOptions().map_entry:
            target = target.fields_by_name["value"].message_type.fields[0].message_type
        yield from _pairs(inner, target)


_ALL_PAIRS = {
    (model.__name__, message.full_name): (model, message)
    for top, kind in convert.PAIRS.items()
    for model, message in _pairs(top, kind.DESCRIPTOR)
}


@pytest.mark.parametrize("pair", _ALL_PAIRS.values(), ids=lambda pair: pair[0].__name__)
def test_models_and_messages_have_the_same_fields(pair: tuple[type[BaseModel], Descriptor]) -> None:
    model, message = pair
    own = {info.alias or name for name, info in model.model_fields.items()}
    assert own == {field.json_name for field in message.fields} - {EXPLICITLY_EMPTY}


def test_pairs_within_pairs_are_found() -> None:
    assert len(_ALL_PAIRS) > 35


@pytest.mark.parametrize("model", convert.PAIRS, ids=lambda model: model.__name__)
def test_lists_that_may_be_null_have_a_place_for_it(model: type[BaseModel]) -> None:
    plan = plan_for(model, convert.PAIRS[model].DESCRIPTOR)

    def has_optional_list(plan: Plan) -> bool:
        return not plan.keeps_empty and any(
            (field.is_list and field.nullable)
            or (field.nested is not None and has_optional_list(field.nested))
            for field in plan.by_alias.values()
        )

    assert not has_optional_list(plan)


def test_a_difference_of_fields_is_an_error() -> None:
    with pytest.raises(TypeError, match="message"):
        Plan(platform.Status, common_pb2.EntityIdentifier.DESCRIPTOR)


def test_filters_have_the_fields_of_queries() -> None:
    queries = (
        requests.ModelQueryRequest,
        requests.InferenceServiceQueryRequest,
        requests.InferenceSessionQueryRequest,
    )
    fields = {name for query in queries for name in query.model_fields}
    wire = {field.json_name for field in common_pb2.ResourceFilter.DESCRIPTOR.fields}
    assert wire == fields - {"order", "orderBy", "limit", "after"}


def _service(**runner: Any) -> platform.InferenceService:
    data = valid_instance("InferenceService", "minimal")
    data["runner"] = {"kind": "mock", "resources": {}, **runner}
    return platform.InferenceService.model_validate(data)


def test_empty_and_null_lists_are_told_apart() -> None:
    view = {"id": "v", "viewOf": "x", "schema": {"arrowSchema": ""}}
    service = _service(args=[], command=["x"]).model_copy(
        update={"outputViews": [platform.DataView.model_validate({**view, "adapterPipeline": []})]}
    )
    message = convert.to_proto(service)
    assert list(message.explicitly_empty) == ["runner.args", "outputViews.0.adapterPipeline"]
    back = convert.from_proto(message)
    assert back.runner is not None
    assert (back.runner.args, back.runner.env) == ([], None)
    assert back.outputViews[0].adapterPipeline == []


def test_paths_of_a_session_lead_through_its_service() -> None:
    data = valid_instance("InferenceSession", "full")
    data["inferenceService"]["runner"]["args"] = []
    both = platform.InferenceSessionAndToken.model_validate(
        {"inferencesession": data, "token": "t"}
    )
    message = convert.to_proto(both)
    paths = list(message.inferencesession.explicitly_empty)
    assert paths == ["inferenceService.runner.args"]
    assert convert.from_proto(message) == both


@pytest.mark.parametrize(
    "path",
    [
        "",
        "runner",
        "runner.nothing",
        "runner.command",
        "runner.args.0",
        "name.args",
        "labels.a",
        "outputViews.0.adapterPipeline",
        "outputViews.x.adapterPipeline",
        "builder.args",
    ],
)
def test_paths_that_name_no_empty_list_are_refused(path: str) -> None:
    message = convert.to_proto(_service(command=["x"]))
    message.explicitly_empty.append(path)
    with pytest.raises(ValidationError) as caught:
        convert.from_proto(message)
    assert caught.value.errors()[0]["loc"] == ("explicitlyEmpty", 0)


@pytest.mark.parametrize(
    ("entity", "place"),
    [
        (
            requests.InferenceSessionCreateRequest.model_validate({**_SESSION, "replicas": 2**31}),
            ("replicas",),
        ),
        (_service(nodes=2**40), ("runner", "nodes")),
        (
            _service(
                accelerator={"kind": "GPU", "gpu": {"hardwareTypes": ["x"], "count": -(2**40)}}
            ),
            ("runner", "accelerator", "gpu", "count"),
        ),
        (
            requests.ModelCreateRequest.model_validate(
                {
                    **valid_instance("ModelCreateRequest", "minimal"),
                    "artifact": {
                        "kind": "Volume",
                        "volume": {
                            "files": [{"path": "a", "size": 1}, {"path": "b", "size": 2**63}]
                        },
                    },
                }
            ),
            ("artifact", "volume", "files", 1, "size"),
        ),
        (_service(args=["\ud800"]), ("runner", "args")),
        (platform.Status(status="\ud800"), ("status",)),
        (
            platform.Model.model_validate(
                {
                    **valid_instance("Model", "minimal"),
                    "metadata": {
                        "metrics": {
                            "data": {"m": [{"labels": {"a": "\ud800"}, "timestamp": 0, "value": 0}]}
                        }
                    },
                }
            ),
            ("metadata", "metrics", "data", "m", 0, "labels"),
        ),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_the_wire_cannot_hold_is_refused_by_path(entity: Any, place: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        convert.to_proto(entity)
    assert [error["loc"] for error in caught.value.errors()] == [place]


def _interface(configuration: Any) -> dict[str, Any]:
    data = valid_instance("InferenceService", "minimal")
    data["interface"]["inputPipeline"] = [
        {"kind": "A"},
        {"kind": "B", "configuration": configuration},
    ]
    return data


@pytest.mark.parametrize(
    "configuration",
    [
        {"a": float("nan")},
        {"a": [float("-inf")]},
        {"a": {1, 2}},
        {"a": 10**5000},
        {"a": "\ud800"},
        json.loads('{"a":' * 128 + "{}" + "}" * 128),
    ],
    ids=["nan", "infinity", "set", "digits", "surrogate", "deep"],
)
def test_configurations_that_are_not_json_are_refused(configuration: Any) -> None:
    service = platform.InferenceService.model_validate(_interface(configuration))
    with pytest.raises(ValidationError) as caught:
        convert.to_proto(service)
    place = ("interface", "inputPipeline", 1, "configuration")
    assert caught.value.errors()[0]["loc"] == place


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "1",
        '"x"',
        "null",
        '{"a":NaN}',
        '{"a":-Infinity}',
        '{"a":1e999}',
        '{"a":"\\ud800"}',
        '{"a":' * 128 + "{}" + "}" * 128,
        "[" * 100_000,
    ],
    ids=lambda text: text[:12],
)
def test_texts_that_are_no_json_object_are_refused(text: str) -> None:
    message = convert.to_proto(platform.InferenceService.model_validate(_interface({})))
    message.interface.input_pipeline[1].configuration = text
    with pytest.raises(ValidationError) as caught:
        convert.from_proto(message)
    place = ("interface", "inputPipeline", 1, "configuration")
    assert caught.value.errors()[0]["loc"] == place


def test_order_and_numbers_of_configurations_are_kept() -> None:
    text = '{"z":1,"a":1.0,"big":123456789012345678901234567890,"e":1e-07,"n":null,"s":"é😀"}'
    service = platform.InferenceService.model_validate(_interface(json.loads(text)))
    message = convert.to_proto(service)
    assert message.interface.input_pipeline[1].configuration == text
    assert convert.from_proto(message) == service


def test_the_deepest_json_that_is_taken_can_be_stored() -> None:
    text = '{"a":' * 127 + "{}" + "}" * 127
    data = valid_instance("InferenceSession", "full")
    pipeline = [{"kind": "A", "configuration": json.loads(text)}]
    data["inferenceService"]["interface"]["inputPipeline"] = pipeline
    session = convert.from_proto(convert.to_proto(platform.InferenceSession.model_validate(data)))
    both = platform.InferenceSessionAndToken(inferencesession=session, token="t")
    assert platform.InferenceSessionAndToken.model_validate_json(both.json()) == both


def test_free_json_is_not_shared() -> None:
    configuration: dict[str, Any] = {"a": [1]}
    service = platform.InferenceService.model_validate(_interface(configuration))
    back = convert.from_proto(convert.to_proto(service))
    configuration["a"].append(2)
    assert back.interface.inputPipeline is not None
    assert back.interface.inputPipeline[1].configuration == {"a": [1]}


def test_a_message_is_held_to_the_rules_of_its_model() -> None:
    message = model_pb2.ModelCreateRequest(account="a b", name="x")
    message.artifact.kind = "Nothing"
    with pytest.raises(ValidationError) as caught:
        convert.from_proto(message)
    places = {error["loc"]: error["type"] for error in caught.value.errors()}
    assert places == {
        ("account",): "value_error",
        ("artifact", "kind"): "enum",
        ("source",): "missing",
        ("resources",): "missing",
    }


@pytest.mark.parametrize(("seconds", "nanos"), [(10**15, 0), (0, -1), (0, 10**9)])
def test_times_that_are_none_are_refused(seconds: int, nanos: int) -> None:
    message = convert.to_proto(requests.InferenceSessionCreateRequest.model_validate(_SESSION))
    message.expires.seconds, message.expires.nanos = seconds, nanos
    with pytest.raises(ValidationError) as caught:
        convert.from_proto(message)
    assert caught.value.errors()[0]["loc"] == ("expires",)


def test_the_epoch_is_a_time() -> None:
    request = requests.InferenceSessionCreateRequest.model_validate({**_SESSION, "expires": 0})
    message = convert.to_proto(request)
    assert message.HasField("expires")
    assert convert.from_proto(message) == request


def test_requests_carry_only_what_was_set() -> None:
    message = convert.to_proto(requests.InferenceSessionCreateRequest.model_validate(_SESSION))
    assert {field.name for field, _ in message.ListFields()} == {"account", "inference_service"}
    assert convert.from_proto(message).json() == json.dumps(_SESSION, separators=(",", ":"))


def test_durations_of_another_sign_are_refused() -> None:
    message = inference_service_pb2.ServingOptions()
    message.start_timeout.seconds, message.start_timeout.nanos = 1, -1
    with pytest.raises(ValidationError) as caught:
        convert.from_proto(message)
    assert caught.value.errors()[0]["loc"] == ("startTimeout",)


def test_serving_options_are_checked() -> None:
    message = inference_service_pb2.ServingOptions(max_concurrency=0, readiness_path="x")
    with pytest.raises(ValidationError) as caught:
        convert.from_proto(message)
    assert {e["loc"] for e in caught.value.errors()} == {("maxConcurrency",), ("readinessPath",)}
    whole = ServingOptions(start_timeout=0.1, stop_grace=0.3)
    assert convert.from_proto(convert.to_proto(whole)) == whole


def test_types_without_a_partner_are_errors() -> None:
    with pytest.raises(TypeError, match="Documentation has no message"):
        convert.to_proto(platform.Documentation())  # type: ignore[call-overload]  # the point
    with pytest.raises(TypeError, match="EntityIdentifier has no model"):
        convert.from_proto(common_pb2.EntityIdentifier())  # type: ignore[call-overload]  # the point


def test_label_edits() -> None:
    edit = requests.LabelsEditRequest(labels={"a": "b", "dyff.io/access": None})
    changes = convert.labels_edit_to_proto(edit)
    message = registry_service_pb2.LabelModelRequest(id="x", labels=changes)
    assert message.labels["a"].value == "b"
    assert not message.labels["dyff.io/access"].HasField("value")
    assert convert.labels_edit_from_proto(message.labels) == edit
    with pytest.raises(ValidationError) as caught:
        convert.labels_edit_from_proto({"a_b": common_pb2.LabelChange(value="x")})
    assert caught.value.errors()[0]["loc"] == ("labels", "a_b", "[key]")


def test_documentation_edits() -> None:
    edit = requests.DocumentationEditRequest.model_validate(
        {"documentation": {"title": "", "summary": None}}
    )
    message = convert.documentation_edit_to_proto(edit)
    assert message == common_pb2.DocumentationEdit(title="", clear=["summary"])
    assert convert.documentation_edit_from_proto(message).json() == edit.json()


@pytest.mark.parametrize(
    ("message", "place"),
    [
        (common_pb2.DocumentationEdit(title="x" * 141), ("documentation", "title")),
        (common_pb2.DocumentationEdit(clear=["full_page"]), ("documentation", "clear", 0)),
        (
            common_pb2.DocumentationEdit(title="x", clear=["summary", "title"]),
            ("documentation", "clear", 1),
        ),
    ],
)
def test_documentation_edits_that_are_refused(
    message: common_pb2.DocumentationEdit, place: tuple[Any, ...]
) -> None:
    with pytest.raises(ValidationError) as caught:
        convert.documentation_edit_from_proto(message)
    assert [error["loc"] for error in caught.value.errors()] == [place]


def test_queries() -> None:
    query = requests.InferenceSessionQueryRequest(
        inferenceServiceName="s", labels='{"a": "b"}', order="descending", orderBy="id", limit=5000
    )
    wire = convert.query_to_proto(query)
    assert wire == common_pb2.ResourceFilter(inference_service_name="s", labels={"a": "b"})
    page = convert.page_to_proto(query, "token")
    assert page == common_pb2.PageRequest(
        page_size=1000, page_token="token", order_by="id", order=common_pb2.SORT_ORDER_DESCENDING
    )
    back = convert.query_from_proto(requests.InferenceSessionQueryRequest, wire, page)
    assert back.model_dump() == {
        **query.model_dump(),
        "labels": '{"a":"b"}',
        "limit": 1000,
    }


@pytest.mark.parametrize("labels", ["x", "[]", '{"a": 1}', '{"a b": "c"}', '{"a": null}'])
def test_labels_of_queries_are_checked(labels: str) -> None:
    with pytest.raises(ValidationError) as caught:
        convert.query_to_proto(requests.ModelQueryRequest(labels=labels))
    assert caught.value.errors()[0]["loc"][0] == "labels"


def test_texts_without_a_form_in_utf_8_are_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        convert.query_to_proto(requests.ModelQueryRequest(name="\ud800"))
    assert caught.value.errors()[0]["loc"] == ("name",)
    edit = requests.DocumentationEditRequest.model_validate(
        {"documentation": {"fullPage": "\ud800"}}
    )
    with pytest.raises(ValidationError) as caught:
        convert.documentation_edit_to_proto(edit)
    assert caught.value.errors()[0]["loc"] == ("documentation", "fullPage")


def test_fields_of_other_kinds_are_refused_in_filters() -> None:
    wire = common_pb2.ResourceFilter(inference_service="s")
    with pytest.raises(ValidationError) as caught:
        convert.query_from_proto(requests.ModelQueryRequest, wire)
    assert caught.value.errors()[0]["loc"] == ("inferenceService",)


def test_a_list_begins_after_a_position_and_goes_on_by_tokens() -> None:
    query = requests.ModelQueryRequest(orderBy="name", after='["é", "id"]')
    page = convert.page_to_proto(query)
    assert (page.after.value, page.after.id) == ("é", "id")
    assert convert.query_from_proto(requests.ModelQueryRequest, common_pb2.ResourceFilter(), page)
    assert not convert.page_to_proto(query, "token").HasField("after")


@pytest.mark.parametrize(
    ("after", "order_by", "rule"),
    [
        ('["x", "y"]', None, "orderBy"),
        ("x", "name", "array"),
        ('["x"]', "name", "array"),
        ('["x", 1]', "name", "array"),
        ('{"x": "y"}', "name", "array"),
        ("[" * 100_000, "name", "array"),
        ('["\\ud800", "y"]', "name", "Unicode"),
    ],
)
def test_other_positions_are_refused(after: str, order_by: str | None, rule: str) -> None:
    with pytest.raises(ValidationError, match=rule) as caught:
        convert.page_to_proto(requests.ModelQueryRequest(after=after, orderBy=order_by))
    assert caught.value.errors()[0]["loc"] == ("after",)


def test_token_requests() -> None:
    expires = datetime(2030, 1, 1, tzinfo=UTC)
    request = requests.InferenceSessionTokenCreateRequest(expires=expires)
    message = convert.token_request_to_proto("id", request)
    assert (message.id, message.expires.ToDatetime(tzinfo=UTC)) == ("id", expires)
    assert convert.token_request_from_proto(message) == request
    empty = session_manager_service_pb2.CreateSessionTokenRequest(id="id")
    assert convert.token_request_from_proto(empty).expires is None
    empty.expires.nanos = -1
    with pytest.raises(ValidationError):
        convert.token_request_from_proto(empty)


def test_documentation_belongs_to_an_entity() -> None:
    message = common_pb2.Documentation(title="t")
    documentation = convert.documentation_from_proto(message, entity="e")
    assert (documentation.title, documentation.entity) == ("t", "e")
    assert convert.documentation_to_proto(documentation) == message


def test_an_empty_session_is_refused_and_not_an_accident() -> None:
    with pytest.raises(ValidationError):
        convert.from_proto(inference_session_pb2.InferenceSession())
