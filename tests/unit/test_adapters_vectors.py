"""The adapters against recorded outcomes of the platform's own."""

import base64
import binascii
import builtins
import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest

from podbay.schema import adapters
from podbay.schema.adapters import AdapterError, AdapterRunError, create_pipeline
from podbay.schema.platform import SchemaAdapter

VECTORS = Path(__file__).parents[1] / "vectors"


def load(name: str) -> list[dict[str, Any]]:
    return json.loads((VECTORS / name).read_text("utf-8"))


def by_name(vector: dict[str, Any]) -> str:
    return vector["name"]


def with_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"$bytes"}:
            return base64.b64decode(value["$bytes"])
        return {name: with_bytes(member) for name, member in value.items()}
    if isinstance(value, list):
        return [with_bytes(element) for element in value]
    return value


def to_text(value: Any) -> str:
    """As JSON text, in which the order of members counts."""

    def write_bytes(other: Any) -> Any:
        assert isinstance(other, bytes)
        return {"$bytes": base64.b64encode(other).decode()}

    return json.dumps(value, default=write_bytes, ensure_ascii=False)


def error_type(vector: dict[str, Any]) -> type[Exception]:
    match vector["errorModule"]:
        case "builtins":
            return getattr(builtins, vector["error"])
        case "re":
            return re.error
        case "binascii":
            return binascii.Error
        case "jsonpath_ng.exceptions":
            return getattr(adapters, vector["error"])
        case module:
            raise AssertionError(module)


def outcome_as_dicts(vector: dict[str, Any]) -> dict[str, Any]:
    return vector.get("rawSpec", vector)


def check(specs: list[Any], items: list[Any], outcome: dict[str, Any]) -> None:
    if outcome.get("phase") == "construct":
        with pytest.raises(error_type(outcome)) as failure:
            create_pipeline(specs)
        assert isinstance(failure.value, AdapterError)
        assert not isinstance(failure.value, AdapterRunError)
        return
    pipeline = create_pipeline(specs)
    delivered: list[Any] = []

    if outcome.get("phase") == "run":
        with pytest.raises(error_type(outcome)) as failure:
            deliver_all(pipeline.apply(items), delivered)
        assert isinstance(failure.value, AdapterRunError)
        assert failure.value.step is not None
        assert failure.value.kind.split(" > ")[0] == specs_kind(specs[failure.value.step])
        assert to_text(delivered) == to_text(outcome["outputBeforeError"])
        return
    deliver_all(pipeline.apply(items), delivered)
    assert to_text(delivered) == to_text(outcome["output"])


def deliver_all(outputs: Iterator[Any], delivered: list[Any]) -> None:
    for output in outputs:
        delivered.append(output)  # noqa: PERF402 - what came before an error must be kept


def specs_kind(spec: Any) -> str:
    return spec["kind"] if isinstance(spec, dict) else spec.kind


@pytest.mark.parametrize("vector", load("adapters.json"), ids=by_name)
def test_plain_specifications(vector: dict[str, Any]) -> None:
    specs = copy.deepcopy(vector["pipeline"])
    items = with_bytes(vector["input"])
    check(specs, items, outcome_as_dicts(vector))
    assert to_text(specs) == to_text(vector["pipeline"]), "the specification was changed"
    assert to_text(items) == to_text(vector["input"]), "the items were changed"


@pytest.mark.parametrize("vector", load("adapters.json"), ids=by_name)
def test_validated_specifications(vector: dict[str, Any]) -> None:
    items = with_bytes(vector["input"])
    if vector.get("phase") == "schema":
        with pytest.raises(pydantic.ValidationError):
            [SchemaAdapter.model_validate(spec) for spec in vector["pipeline"]]
        return
    specs = [SchemaAdapter.model_validate(spec) for spec in vector["pipeline"]]
    check(specs, items, vector)


def test_enough_vectors() -> None:
    assert len(load("adapters.json")) > 390
    assert len(load("envelopes.json")) > 25
