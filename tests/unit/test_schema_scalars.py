"""Single values against the recorded vectors."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from podbay.schema import platform, requests
from tests.support.schema_vectors import valid_instance, vectors

_DIGEST = f"sha256:{'0' * 64}"


def _type(kind: Any) -> Callable[[Any], Any]:
    return TypeAdapter(kind).validate_python


def _image(field: str) -> Callable[[Any], Any]:
    image = {"host": "h", "name": "n", "digest": _DIGEST}
    return lambda value: platform.ContainerImageSource.model_validate({**image, field: value})


def _changed(model: Any, base: dict[str, Any], field: str) -> Callable[[Any], Any]:
    # Through JSON text, as the vectors were made.
    return lambda value: model.model_validate_json(json.dumps({**base, field: value}))


def _file_path(path: Any) -> Any:
    base = valid_instance("ModelCreateRequest", "minimal")
    artifact = {"kind": "Volume", "volume": {"files": [{"path": path, "size": 1}]}}
    return requests.ModelCreateRequest.model_validate({**base, "artifact": artifact})


_SESSION = {"account": "a", "inferenceService": "s"}
_KINDS: dict[str, Callable[[Any], Any]] = {
    "labelKey": _type(platform.LabelKey),
    "labelValue": _type(platform.LabelValue),
    "entityID": _type(platform.EntityID),
    "nonNegativeQuantity": _type(platform.NonNegativeQuantity),
    "quantity": _type(platform.Quantity),
    "imageName": _image("name"),
    "imageDigest": _image("digest"),
    "imageTag": _image("tag"),
    "imageHost": _image("host"),
    "requestAccount": _changed(requests.InferenceSessionCreateRequest, _SESSION, "account"),
    "modelFilePath": _file_path,
    "requestDatetime": _changed(requests.InferenceSessionCreateRequest, _SESSION, "expires"),
    "entityDatetime": _changed(platform.Model, valid_instance("Model", "minimal"), "creationTime"),
}


def test_every_kind_of_scalar_is_covered() -> None:
    assert vectors("scalars").keys() == {*_KINDS, "parseQuantity"}


@pytest.mark.parametrize(
    ("kind", "case"), [(kind, case) for kind in _KINDS for case in vectors("scalars")[kind]]
)
def test_scalars(kind: str, case: dict[str, Any]) -> None:
    if case["valid"]:
        _KINDS[kind](case["value"])
    else:
        with pytest.raises(ValidationError):
            _KINDS[kind](case["value"])


@pytest.mark.parametrize("case", vectors("scalars")["parseQuantity"], ids=lambda c: str(c["value"]))
def test_values_of_quantities(case: dict[str, Any]) -> None:
    value = case["value"]
    if "decimalError" in case:
        with pytest.raises(ValueError, match="not a quantity"):
            platform.quantity_to_decimal(value)
    else:
        assert str(platform.quantity_to_decimal(value)) == case["decimal"]
    if "intError" in case:
        with pytest.raises((ValueError, OverflowError)) as caught:
            platform.quantity_to_int(value)
        assert type(caught.value).__name__ == case["intError"]
    else:
        assert platform.quantity_to_int(value) == case["int"]
