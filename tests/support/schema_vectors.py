"""Reads the recorded vectors of the JSON interface."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from podbay.schema import platform, requests
from podbay.schema._base import PodbayModel

_FOLDER = Path(__file__).parent.parent / "vectors"


@cache
def vectors(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def model_named(name: str) -> type[PodbayModel]:
    found: type[PodbayModel] = getattr(platform, name, None) or getattr(requests, name)
    assert issubclass(found, PodbayModel)
    return found


def resource_cases(group: str) -> list[tuple[str, dict[str, Any]]]:
    """The model's name and the case, of every case in `valid` or `invalid`."""
    return [
        (model, case) for model, groups in vectors("resources").items() for case in groups[group]
    ]


def valid_instance(model: str, name: str) -> Any:
    """A fresh copy of the instance of one valid case."""
    (case,) = (case for case in vectors("resources")[model]["valid"] if case["name"] == name)
    return json.loads(json.dumps(case["instance"]))
