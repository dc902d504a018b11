"""Queries and pipelines over random JSON."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podbay.schema.adapters import (
    AdapterConfigurationError,
    AdapterRunError,
    ItemValueError,
    JSONPathError,
    Pipeline,
    _hierarchy,
    create_adapter,
    create_pipeline,
    known_kinds,
)

NAMES = st.sampled_from(["a", "b", "c", "a b", "x.y", "é", "日本", "7", "$", "it's", ""])
UNQUOTED = {"a", "b", "c", "日本", "7"}
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=25,
)
STEPS = st.lists(NAMES | st.integers(-4, 4), max_size=5)


def quote(name: str, mark: str) -> str:
    return mark + name.replace(mark, f"\\{mark}") + mark


@st.composite
def queries(draw: st.DrawFn) -> tuple[str, list[str | int]]:
    """A plain path, written in one of the ways in which it can be."""
    steps = draw(STEPS)
    text = "$"
    for step in steps:
        if isinstance(step, int):
            text += draw(st.sampled_from([f"[{step}]", f".[{step}]", f" [ {step} ]"]))
            continue
        ways = [f"[{quote(step, mark)}]" for mark in "'\""]
        ways += [f".{quote(step, mark)}" for mark in "'\""]
        if step in UNQUOTED:
            ways += [f".{step}", f" . {step}"]
        text += draw(st.sampled_from(ways))
    return text, steps


def naive(value: Any, steps: list[str | int]) -> list[Any]:
    """All matches of a path, the obvious way."""
    for step in steps:
        try:
            if isinstance(value, dict) is isinstance(step, int) or not isinstance(
                value, dict | list
            ):
                return []
            value = value[step]
        except (KeyError, IndexError):
            return []
    return [value]


def transform(template: Any) -> dict[str, Any]:
    return {"kind": "TransformJSON", "configuration": template}


@given(VALUES, queries())
@settings(max_examples=400, deadline=None)
def test_plain_paths(value: Any, query: tuple[str, list[str | int]]) -> None:
    text, steps = query
    expected = naive(value, steps)
    (found,) = create_adapter(transform({"$compute": {"$list": text}})).push(value)
    assert found == expected
    # `this` changes nothing but the way it is evaluated.
    (found,) = create_adapter(transform({"$compute": {"$list": f"{text} where `this`"}})).push(
        value
    )
    assert found == expected
    scalar = create_adapter(transform(text))
    try:
        assert scalar.push(value) == expected
    except ItemValueError:
        assert expected == []


@given(VALUES)
@settings(deadline=None)
def test_everything_below(value: Any) -> None:
    """`..*` finds all that is below a value, and nothing else."""

    def count(part: Any) -> int:
        if isinstance(part, dict):
            part = list(part.values())
        return sum(1 + count(inner) for inner in part) if isinstance(part, list) else 0

    (found,) = create_adapter(transform({"$compute": {"$list": "$..*"}})).push(value)
    assert len(found) == count(value)


@given(st.text(alphabet="$.ab7['\"]*:,()|&@`\\ -é?\n", max_size=12))
@settings(max_examples=400, deadline=None)
def test_any_text_is_a_query_or_an_error_of_queries(text: str) -> None:
    try:
        create_adapter({"kind": "FileUpload", "configuration": {"field": text}})
    except JSONPathError as error:
        assert not isinstance(error, ValueError)


@given(st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4))
@settings(deadline=None)
def test_flattened_items_have_the_leaves_of_the_item(item: dict[str, Any]) -> None:
    def leaves(part: Any) -> list[str]:
        if isinstance(part, dict):
            return [leaf for inner in part.values() for leaf in leaves(inner)]
        return [json.dumps(part)]

    (flat,) = create_adapter({"kind": "FlattenHierarchy", "configuration": None}).push(item)
    names = [name for name in flat if name.count(".") > 0]
    assert not any(isinstance(value, dict) for value in flat.values())
    if len(set(names)) == len(leaves(item)):
        assert sorted(map(json.dumps, flat.values())) == sorted(leaves(item))


@given(
    st.dictionaries(NAMES, VALUES, max_size=4),
    st.booleans(),
    st.none() | st.integers(0, 4),
    st.sampled_from([0, 1, 50]),
)
@settings(max_examples=150, deadline=None)
def test_flattened_items_are_the_same_however_they_are_opened(
    item: dict[str, Any], joined: bool, depth: int | None, calls: int
) -> None:
    def flatten(part: dict[str, Any], prefix: str, level: int) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for name, value in part.items():
            if isinstance(value, dict) and (depth is None or level <= depth):
                flat.update(flatten(value, f"{prefix}{name}." if joined else "", level + 1))
            else:
                flat[prefix + name] = value
        return flat

    configuration = {"addPrefix": joined, "depth": depth}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_hierarchy, "_MOST_CALLS", calls)
        adapter = create_adapter({"kind": "FlattenHierarchy", "configuration": configuration})
        for _ in range(2):  # the second time, names are remembered
            (flat,) = adapter.push(item)
            assert list(flat.items()) == list(flatten(item, "", 1).items())


def _step(inner: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    functions = ["findall", "join", "list", "reduce", "search", "split", "sub", "nope"]
    return {
        "$literal": inner,
        "$scalar": inner,
        "$list": inner,
        "$func": st.sampled_from(functions),
        "pattern": st.sampled_from(["a", "(a)|b", "(", "[^x]", ""]) | inner,
        "repl": st.sampled_from(["x", "\\1"]) | inner,
        "group": inner,
        "default": inner,
        "flags": st.integers(0, 64),
        "separator": inner,
    }


TEMPLATES = st.recursive(
    SCALARS | st.sampled_from(["$", "$.a", "$.a[*]", "$$x", "$..a", "$.[", "$.a.b | $.c"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "$$c", "$d", "$compute"]), inner, max_size=3)
        | st.fixed_dictionaries(
            {"$compute": st.lists(st.fixed_dictionaries({}, optional=_step(inner)), max_size=3)}
        )
    ),
    max_leaves=12,
)


FIELDS = st.lists(NAMES, max_size=3) | VALUES
CONFIGURATIONS = (
    VALUES
    | TEMPLATES
    | st.fixed_dictionaries(
        {},
        optional={
            "fields": FIELDS,
            "collections": FIELDS,
            "index": st.dictionaries(NAMES, st.none() | TEMPLATES, max_size=2) | VALUES,
            "addPrefix": st.booleans(),
            "depth": st.none() | st.integers(-1, 3) | VALUES,
            "field": TEMPLATES,
            "encoding": st.sampled_from(["base64", "binary", "utf-8", "json", "x"]),
            "filename": TEMPLATES,
            "formFields": TEMPLATES,
            "adapter": st.fixed_dictionaries(
                {"kind": st.sampled_from(sorted(known_kinds())), "configuration": TEMPLATES}
            ),
        },
    )
)
SPECS = st.fixed_dictionaries(
    {"kind": st.sampled_from([*sorted(known_kinds()), "Nope"]), "configuration": CONFIGURATIONS}
)


def build(specs: list[Any]) -> Pipeline | None:
    try:
        return create_pipeline(specs)
    except AdapterConfigurationError as error:
        assert str(error)
        return None


@given(st.lists(SPECS, max_size=3), st.lists(VALUES, max_size=3))
@settings(max_examples=500, deadline=None)
def test_whatever_is_wrong_is_an_error_of_adapters(specs: list[Any], items: list[Any]) -> None:
    before = copy.deepcopy((specs, items))
    pipeline = build(specs)
    if pipeline is not None:
        outputs = []
        try:
            outputs.extend(pipeline.apply(items))
        except AdapterRunError as error:
            assert error.step is not None
            assert str(error)
        else:
            pushed = [output for item in items for output in pipeline.push(item)]
            assert pushed == outputs
    assert (specs, items) == before
