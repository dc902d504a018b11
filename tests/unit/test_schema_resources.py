"""The models against the recorded vectors: what is read, what is written, what is refused."""

import json
import subprocess
import sys
import warnings
from typing import Any

import pytest
from pydantic import ValidationError

from podbay.schema import platform, requests
from tests.support.schema_vectors import model_named, resource_cases, valid_instance


def _name(value: Any) -> str:
    return value if isinstance(value, str) else value["name"]


@pytest.mark.parametrize(("model", "case"), resource_cases("valid"), ids=_name)
def test_valid_instances_are_written_in_the_normal_form(model: str, case: dict[str, Any]) -> None:
    entity = model_named(model).model_validate_json(json.dumps(case["instance"]))
    # As text: the order of members is the platform's, too.
    expected = json.dumps(case["normalized"])
    assert json.dumps(json.loads(entity.model_dump_json())) == expected
    assert json.dumps(json.loads(entity.json(indent=2))) == expected
    assert json.dumps(entity.model_dump(mode="json")) == expected
    assert json.dumps(entity.dict(mode="json")) == expected


@pytest.mark.parametrize(("model", "case"), resource_cases("valid"), ids=_name)
def test_the_normal_form_reads_as_the_same(model: str, case: dict[str, Any]) -> None:
    kind = model_named(model)
    entity = kind.model_validate_json(json.dumps(case["instance"]))
    assert kind.model_validate_json(entity.model_dump_json()) == entity
    assert kind.parse_obj(case["instance"]) == entity


@pytest.mark.parametrize(("model", "case"), resource_cases("invalid"), ids=_name)
def test_invalid_instances_are_refused_at_the_same_place(model: str, case: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        model_named(model).model_validate_json(json.dumps(case["instance"]))
    found = [{"loc": list(e["loc"]), "type": e["type"]} for e in caught.value.errors()]
    assert found == case["errors"]


def test_the_methods_of_pydantic_1_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = platform.Model.parse_obj(valid_instance("Model", "minimal"))
        assert model.json(indent=2).startswith('{\n  "name"')
        assert model.dict()["kind"] == "Model"


def test_errors_do_not_show_the_input() -> None:
    with pytest.raises(ValidationError) as caught:
        platform.Status.model_validate({"status": "Ready", "reason": ["hunter2"]})
    assert "hunter2" not in str(caught.value)


def test_nulls_in_free_json_are_kept() -> None:
    spec = platform.SchemaAdapter(kind="X", configuration={"a": None, "b": {"c": None}})
    assert spec.dict() == {"kind": "X", "configuration": {"a": None, "b": {"c": None}}}


def test_values_that_are_not_finite_are_left_out_of_metrics() -> None:
    value = {"labels": {}, "timestamp": 0, "value": 1.0}
    values = [value, {**value, "value": float("nan")}, {**value, "value": float("inf")}]
    metrics = platform.Metrics.model_validate({"data": {"m": values}})
    assert len(metrics.data["m"]) == 3
    assert [v["value"] for v in json.loads(metrics.json())["data"]["m"]] == [1.0]


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("2030-01-01T00:00:00.5Z", "2030-01-01T00:00:00.500000Z"),
        ("2030-01-01T02:00:00+02:00", "2030-01-01T00:00:00Z"),
        ("2030-01-01T00:00:00", "2030-01-01T00:00:00Z"),
        ("2030-01-01", "2030-01-01T00:00:00Z"),
    ],
)
def test_times_are_written_in_utc(given: str, written: str) -> None:
    data = {**valid_instance("Model", "minimal"), "creationTime": given}
    assert json.loads(platform.Model.model_validate(data).json())["creationTime"] == written


def test_a_time_outside_the_calendar_is_refused() -> None:
    data = {**valid_instance("Model", "minimal"), "creationTime": "0001-01-01T00:00:00+01:00"}
    with pytest.raises(ValidationError) as caught:
        platform.Model.model_validate(data)
    assert caught.value.errors()[0]["loc"] == ("creationTime",)


def test_the_token_is_also_called_session() -> None:
    both = platform.InferenceSessionAndToken.model_validate(
        valid_instance("InferenceSessionAndToken", "jwt")
    )
    assert both.session == both.token
    assert both.inferencesession.kind == "InferenceSession"


def test_dependencies() -> None:
    session = platform.InferenceSession.model_validate(valid_instance("InferenceSession", "full"))
    assert session.dependencies() == [session.inferenceService.id]
    service = platform.InferenceService.model_validate(
        valid_instance("InferenceService", "with-model-and-runner")
    )
    assert service.model is not None
    assert service.dependencies() == [service.model.id]
    model = platform.Model.model_validate(valid_instance("Model", "every-system-field"))
    assert model.dependencies() == [model.metadata.preconditions[0].id]


def test_identifiers_name_their_collection() -> None:
    model = platform.Model.model_validate(valid_instance("Model", "minimal"))
    assert platform.EntityIdentifier.of(model).resource_path() == f"models/{model.id}"
    path = platform.EntityIdentifier(kind="OCIArtifact", id="x").resource_path()
    assert path == "artifacts/x"


def test_ids() -> None:
    assert platform.null_id() == "0" * 32
    first, second = platform.generate_entity_id(), platform.generate_entity_id()
    assert first != second
    assert len(first) == 32
    assert platform.namespaced_id(first, "a") == platform.namespaced_id(first, "a")
    assert platform.namespaced_id(first, "a") != platform.namespaced_id(second, "a")
    assert platform.replication_id(first, 3) == platform.namespaced_id(first, "3")


def test_names_of_images_and_snapshots() -> None:
    image = platform.ContainerImageSource(host="h:1", name="a/b", digest=f"sha256:{'0' * 64}")
    assert image.pull_name() == f"h:1/a/b@sha256:{'0' * 64}"
    cache = platform.ModelArtifactHuggingFaceCache(repoID="o/n", revision="r")
    assert cache.snapshot_path() == "models--o--n/snapshots/r"


@pytest.mark.parametrize("module", [platform, requests])
def test_everything_exported_is_there(module: Any) -> None:
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_importing_the_models_is_light() -> None:
    code = (
        "import sys, podbay.schema.platform, podbay.schema.requests, podbay.schema.serving\n"
        "heavy = [m for m in ('google.protobuf', 'grpc', 'podbay.v1', 'podbay.schema.adapters')"
        " if m in sys.modules]\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
