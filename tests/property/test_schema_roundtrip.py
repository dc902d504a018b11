"""Conversion to messages and back is the identity, for all that the models accept."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from podbay.schema import convert, platform, requests
from podbay.schema._request_base import AccountRequest
from podbay.schema.serving import ServingOptions
from tests.support.schema_instances import instances
from tests.support.schema_vectors import model_named, resource_cases

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
_MODELS = [model for model in convert.PAIRS if model is not platform.DocumentationBase]


def _there_and_back(entity: Any) -> Any:
    message = convert.to_proto(entity)
    sent = type(message).FromString(message.SerializeToString())
    back = convert.from_proto(sent)
    assert convert.to_proto(back) == message
    return back


def _same(left: BaseModel, right: BaseModel) -> None:
    assert left == right
    assert json.loads(left.model_dump_json()) == json.loads(right.model_dump_json())
    if isinstance(left, AccountRequest):
        # No maps, which have no order on the wire: all order is kept, of free JSON too.
        assert left.model_dump_json() == right.model_dump_json()


@pytest.mark.parametrize("model", _MODELS, ids=lambda model: model.__name__)
@settings(max_examples=120, deadline=None, suppress_health_check=_SLOW)
@given(data=st.data())
def test_conversion_is_the_identity(model: type[BaseModel], data: st.DataObject) -> None:
    entity = data.draw(instances(model))
    _same(_there_and_back(entity), entity)
    stored = entity.model_dump_json()
    assert model.model_validate_json(stored).model_dump_json() == stored


@pytest.mark.parametrize(
    ("model", "case"),
    [(name, case) for name, case in resource_cases("valid") if model_named(name) in convert.PAIRS],
    ids=lambda value: value if isinstance(value, str) else value["name"],
)
def test_every_vector_survives_conversion(model: str, case: dict[str, Any]) -> None:
    entity = model_named(model).model_validate_json(json.dumps(case["instance"]))
    back = _there_and_back(entity)
    _same(back, entity)
    assert json.loads(back.model_dump_json()) == case["normalized"]


@settings(max_examples=120, deadline=None, suppress_health_check=_SLOW)
@given(edit=instances(requests.LabelsEditRequest))
def test_label_edits_survive_conversion(edit: requests.LabelsEditRequest) -> None:
    assert convert.labels_edit_from_proto(convert.labels_edit_to_proto(edit)) == edit


@settings(max_examples=120, deadline=None)
@given(edit=instances(requests.DocumentationEditRequest))
def test_documentation_edits_survive_conversion(edit: requests.DocumentationEditRequest) -> None:
    back = convert.documentation_edit_from_proto(convert.documentation_edit_to_proto(edit))
    assert back.model_dump_json() == edit.model_dump_json()


@settings(max_examples=120, deadline=None)
@given(documentation=instances(platform.Documentation))
def test_documentation_survives_conversion(documentation: platform.Documentation) -> None:
    message = convert.documentation_to_proto(documentation)
    back = convert.documentation_from_proto(message, entity=documentation.entity)
    assert back == documentation


@pytest.mark.parametrize(
    "model",
    [
        requests.ModelQueryRequest,
        requests.InferenceServiceQueryRequest,
        requests.InferenceSessionQueryRequest,
    ],
)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_queries_survive_conversion(
    model: type[requests.QueryRequest], data: st.DataObject
) -> None:
    query = data.draw(instances(model)).model_copy(update={"after": None})
    labels = data.draw(instances(requests.LabelsEditRequest)).labels
    given_labels = {key: value for key, value in labels.items() if value is not None}
    query = query.model_copy(update={"labels": json.dumps(given_labels) if given_labels else None})
    if query.limit is not None:
        # The most that one page holds.
        query = query.model_copy(update={"limit": min(query.limit, 1000)})
    back = convert.query_from_proto(
        model, convert.query_to_proto(query), convert.page_to_proto(query)
    )
    assert json.loads(back.labels or "{}") == given_labels
    assert back.model_copy(update={"labels": None}) == query.model_copy(update={"labels": None})


@settings(max_examples=120, deadline=None)
@given(options=instances(ServingOptions))
def test_serving_options_survive_annotations(options: ServingOptions) -> None:
    assert ServingOptions.from_annotations(options.to_annotations()) == options
