"""Podbay's models against the reference packages: each reads what the other writes."""

import copy
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from podbay.schema import platform, requests
from podbay.schema._base import PodbayModel
from tests.support.reference import Reference
from tests.support.schema_instances import instances
from tests.support.schema_vectors import model_named, resource_cases

pytestmark = [pytest.mark.needs_reference, pytest.mark.timeout(600)]

# What Podbay adds to the platform's models, or names for itself.
_OURS_ALONE = {"LocalInferenceServiceCreateRequest", "DocumentationEdit"}
# Never read by themselves. The reference's DyffEntity lists all kinds, ours leaves them to the
# resources, each of which has its constant.
_BASES = {"CreateRequest", "QueryRequest", "DyffEntity"}
_NAMES = sorted(
    name
    for module in (platform, requests)
    for name in module.__all__
    if isinstance(found := getattr(module, name), type) and issubclass(found, PodbayModel)
    if name not in _OURS_ALONE | _BASES
)
# Only Metrics leaves values out that are not finite; alone, neither side reads what it writes.
_READ_BACK = [name for name in _NAMES if name != "MetricValue"]
_CASES = int(os.environ.get("PODBAY_DIFFERENTIAL_CASES", "2000"))
_SETTINGS = settings(
    max_examples=max(10, _CASES // 500), deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def reference() -> Iterator[Reference]:
    with Reference() as running:
        yield running


def _in_order(text: str) -> str:
    """JSON text in one notation; the order of members stays."""
    return json.dumps(json.loads(text))


def _ours(model: type[BaseModel], text: str) -> dict[str, Any]:
    try:
        return {"written": model.model_validate_json(text).model_dump_json()}
    except ValidationError as error:
        return {"errors": [[list(one["loc"]), one["type"]] for one in error.errors()]}


def _compare(ours: dict[str, Any], theirs: dict[str, Any], text: str) -> None:
    if "written" in ours and "written" in theirs:
        assert _in_order(ours["written"]) == _in_order(theirs["written"]), text
    else:
        assert ours == theirs, text


def test_all_models_are_compared(reference: Reference) -> None:
    assert set(_NAMES) - set(reference.has(_NAMES)) == set()
    assert len(_NAMES) > 40


@pytest.mark.parametrize("name", _READ_BACK)
@_SETTINGS
@given(data=st.data())
def test_what_we_write_is_read_and_written_back_equal(
    reference: Reference, name: str, data: st.DataObject
) -> None:
    model = model_named(name)
    entities = [data.draw(instances(model)) for _ in range(3)]
    normal = [entity.model_dump_json() for entity in entities]
    # As it was given: only what was set, nulls included.
    given_form = [e.model_dump_json(exclude_none=False, exclude_unset=True) for e in entities]
    for text, theirs in zip(normal, reference.read(name, normal), strict=True):
        assert _in_order(theirs.get("written", "null")) == _in_order(text), theirs
    for text, theirs in zip(given_form, reference.read(name, given_form), strict=True):
        assert "written" in theirs, (text, theirs)
        # And what they write is read by us, and is the normal form already.
        _compare(_ours(model, text), theirs, text)
        assert _in_order(_ours(model, theirs["written"])["written"]) == _in_order(theirs["written"])


_WRONG = st.sampled_from(
    [None, True, 0, -1, 7, 1.5, 1e300, "", "x", "-x", "1.5Gi", "2030-01-01", "no", "1", [], {}]
) | st.sampled_from(
    [[None], {"a": None}, "0.1", "Data", "x" * 64, "A b", "1e3", "-1", "a/b", ["x"], {"x": "y"}]
)


def _places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    members = value.items() if isinstance(value, dict) else ()
    elements = enumerate(value) if isinstance(value, list) else ()
    for key, inner in (*members, *elements):
        yield from _places(inner, (*path, key))


def _mutated(instance: Any, place: tuple[str | int, ...], change: str, value: Any) -> Any:
    """The instance with one part replaced, removed, or given one more member."""
    root = [copy.deepcopy(instance)]
    holder: Any = root
    at: str | int = 0
    for key in place:
        holder, at = holder[at], key
    if change == "remove" and place:
        del holder[at]
    elif change == "add" and isinstance(holder[at], dict):
        holder[at]["unknownMember"] = value
    else:
        holder[at] = value
    return root[0]


@pytest.mark.parametrize("name", _NAMES)
@_SETTINGS
@given(data=st.data())
def test_changed_instances_are_refused_at_the_same_places(
    reference: Reference, name: str, data: st.DataObject
) -> None:
    model = model_named(name)
    instance = json.loads(data.draw(instances(model)).model_dump_json())
    places = st.sampled_from(list(_places(instance)))
    changes = st.sampled_from(["replace", "replace", "remove", "add"])
    texts = [
        json.dumps(_mutated(instance, data.draw(places), data.draw(changes), data.draw(_WRONG)))
        for _ in range(8)
    ]
    for text, theirs in zip(texts, reference.read(name, texts), strict=True):
        _compare(_ours(model, text), theirs, text)


@pytest.mark.parametrize("group", ["valid", "invalid"])
def test_recorded_instances_are_read_alike(reference: Reference, group: str) -> None:
    for name, case in resource_cases(group):
        text = json.dumps(case["instance"])
        (theirs,) = reference.read(name, [text])
        _compare(_ours(model_named(name), text), theirs, text)
