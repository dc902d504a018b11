"""Errors of adapters: their place, their types, and that they hold nothing of the items."""

import json
import pickle
import traceback
from typing import Any

import pytest

from podbay.schema import adapters
from podbay.schema.adapters import (
    AdapterConfigurationError,
    AdapterError,
    AdapterRunError,
    ConfigurationDepthError,
    ItemDepthError,
    ItemMemoryError,
    JSONPathError,
    create_adapter,
    create_pipeline,
)

SECRET = "sEcReT-42"
DROP = {"kind": "Drop", "configuration": {"fields": ["zzz"]}}


def spec(kind: str, configuration: Any) -> dict[str, Any]:
    return {"kind": kind, "configuration": configuration}


def compute(*steps: Any) -> dict[str, Any]:
    return spec("TransformJSON", {"o": {"$compute": list(steps)}})


def items_with_a_secret() -> list[Any]:
    return [
        {"a": SECRET, "b": 1},
        {"a": [SECRET], "b": [1, 2]},
        {"a": [SECRET, 1, None], "b": {SECRET: SECRET}},
        {"a": {SECRET: 1}, "b": [[SECRET]]},
        {SECRET: SECRET},
        {"a": SECRET + "é", "b": SECRET + "\ud800"},
        [SECRET],
        SECRET,
    ]


FAILING = [
    DROP,
    spec("Select", {"fields": ["a", "c"]}),
    spec("Rename", {"c": "d"}),
    spec("Rename", {"a": ["unhashable"]}),
    spec("ExplodeCollections", {"collections": ["a", "b"]}),
    spec("ExplodeCollections", {"collections": ["c"]}),
    spec("ExplodeCollections", {"collections": [], "index": {"i": "$..*"}}),
    spec("FlattenHierarchy", {}),
    spec("FlattenHierarchy", {"addPrefix": True, "fields": ["c"]}),
    spec("FlattenHierarchy", {"addPrefix": False}),
    spec("FlattenHierarchy", {"depth": -1}),
    spec("Map", {"collections": ["a", "b"], "adapter": DROP}),
    spec("Map", {"collections": ["b"], "adapter": spec("TransformJSON", {"x": "$.c"})}),
    spec("TransformJSON", {"x": "$.c"}),
    spec("TransformJSON", {"x": "$.*"}),
    spec("TransformJSON", {"x": "$.a & $.b"}),
    spec("TransformJSON", {"x": "$.`parent`"}),
    compute({"$scalar": "$.a"}, {"$func": "join"}),
    compute({"$list": "$.*"}, {"$func": "reduce"}),
    compute({"$scalar": "$.a"}, {"$func": "findall", "pattern": "("}),
    compute({"$scalar": "$.a"}, {"$func": "search", "pattern": "c", "group": 4}),
    compute({"$scalar": "$.a"}, {"$func": "sub", "pattern": ".", "repl": "\\7"}),
    compute({"$scalar": "$.b"}, {"$func": "split", "pattern": ","}),
    *(
        spec("FileUpload", {"field": f"$.{field}", "encoding": encoding})
        for encoding in ("base64", "binary", "utf-8")
        for field in "ab"
    ),
    spec("FileUpload", {"field": "$", "encoding": "json", "formFields": {"a": "$.b"}}),
]


@pytest.mark.parametrize("failing", FAILING, ids=json.dumps)
def test_no_data_in_errors(failing: dict[str, Any]) -> None:
    pipeline = create_pipeline([spec("Drop", {"fields": []}), failing])
    failures = 0
    for item in items_with_a_secret():
        try:
            pipeline.push(item)
        except AdapterError as error:
            text = "".join(traceback.format_exception(error))
            assert isinstance(error, AdapterRunError)
            assert SECRET not in text
            assert "\ud800" not in text
            assert error.step in {0, 1}
            assert str(error).startswith(f"Adapter {error.step} ({error.kind})")
            failures += 1
    assert failures


def test_the_place_of_an_error() -> None:
    inner = spec("TransformJSON", {"x": {"y": ["$.a", "$.missing"]}})
    pipeline = create_pipeline([DROP, spec("Map", {"collections": ["c"], "adapter": inner})])
    with pytest.raises(adapters.ItemValueError) as failure:
        pipeline.push({"c": [{"a": 1}]})
    error = failure.value
    assert (error.step, error.kind) == (1, "Map > TransformJSON")
    assert error.path == "configuration.adapter.configuration.x.y[1]"
    assert str(error) == (
        "Adapter 1 (Map > TransformJSON), configuration.adapter.configuration.x.y[1]:"
        " nothing matches the query '$.missing', one value is needed"
    )


def test_the_place_of_a_mistake_in_a_configuration() -> None:
    inner = spec("TransformJSON", {"x": [{"$compute": [{"$scalar": "$.["}]}]})
    with pytest.raises(JSONPathError) as failure:
        create_pipeline([DROP, spec("Map", {"collections": ["c"], "adapter": inner})])
    error = failure.value
    assert (error.step, error.kind) == (1, "Map > TransformJSON")
    assert error.path == "configuration.adapter.configuration.x[0].$compute[0].$scalar"
    assert not isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("bad", "kind", "place", "words"),
    [
        ({}, KeyError, "", "needs the member 'kind'"),
        ({"kind": "Nope"}, ValueError, "kind", "there are Drop, Explode"),
        ({"kind": ["Drop"]}, TypeError, "kind", "name of a kind"),
        (7, TypeError, "", "not a number"),
        (spec("Drop", None), TypeError, "configuration", "needs a configuration"),
        (spec("Drop", {}), KeyError, "configuration", "needs the member 'fields'"),
        (spec("Drop", ["fields"]), TypeError, "configuration", "not an array"),
        (spec("Rename", {"x": 1, "Y": {1}}), None, "", ""),
        (spec("TransformJSON", {"a": {"$b": 1}}), ValueError, "configuration.a", "reserved"),
        (spec("TransformJSON", {"a": (1,)}), ValueError, "configuration", "not JSON"),
        (spec("TransformJSON", {"a": float("nan")}), ValueError, "configuration", "not JSON"),
        (spec("TransformJSON", {1: 2}), ValueError, "configuration", "not JSON"),
        (spec("TransformJSON", {"a": {1}}), TypeError, "configuration", "does not have"),
        (
            compute({"$func": "upper"}),
            KeyError,
            "configuration.o.$compute[0].$func",
            "there are findall, join",
        ),
        (
            compute({"$func": "sub", "pattern": "x", "rpl": "y"}),
            TypeError,
            "configuration.o.$compute[0]",
            "does not take 'rpl'",
        ),
        (spec("FileUpload", {"field": "$", "x": 1}), ValueError, "configuration", "unknown"),
        (
            spec("FileUpload", {"field": "$", "encoding": "hex"}),
            ValueError,
            "configuration.encoding",
            "one of base64, binary, utf-8, json",
        ),
    ],
)
def test_mistakes_in_specifications(
    bad: Any, kind: type[Exception] | None, place: str, words: str
) -> None:
    if kind is None:
        create_adapter(bad)
        return
    with pytest.raises(kind) as failure:
        create_adapter(bad)
    error = failure.value
    assert isinstance(error, AdapterConfigurationError)
    assert error.path == place
    assert words in str(error)


def test_a_template_that_refers_to_itself() -> None:
    template: dict[str, Any] = {}
    template["self"] = template
    with pytest.raises(ValueError, match="refers to itself"):
        create_adapter(spec("TransformJSON", template))


def test_depth_has_an_error_of_its_own() -> None:
    template: Any = "x"
    for _ in range(100_000):
        template = [template]
    with pytest.raises(ConfigurationDepthError, match="nested too deeply"):
        create_adapter(spec("TransformJSON", {"x": template}))
    upload = spec("FileUpload", {"field": "$", "encoding": "json"})
    with pytest.raises(ItemDepthError, match="nested too deeply"):
        create_adapter(upload).push(template)


def test_outputs_that_do_not_fit_into_the_memory() -> None:
    class Huge(dict[str, Any]):
        def copy(self) -> Any:
            raise MemoryError(SECRET)

    with pytest.raises(MemoryError, match="does not fit into the memory") as failure:
        create_pipeline([DROP]).push(Huge())
    assert isinstance(failure.value, ItemMemoryError)
    assert SECRET not in str(failure.value)


def test_queries_with_too_many_parentheses() -> None:
    query = "$." + "(" * 100_000 + "a" + ")" * 100_000
    with pytest.raises(adapters.JsonPathParserError, match="parentheses"):
        create_adapter(spec("TransformJSON", {"x": query}))


def test_long_configurations_are_shortened() -> None:
    query = "$." + "a" * 10_000
    with pytest.raises(adapters.ItemValueError) as failure:
        create_adapter(spec("TransformJSON", {"x": query})).push({})
    assert len(str(failure.value)) < 400


def test_errors_survive_pickling() -> None:
    with pytest.raises(AdapterRunError) as failure:
        create_pipeline([spec("Select", {"fields": ["a"]})]).push({})
    again = pickle.loads(pickle.dumps(failure.value))
    assert type(again) is type(failure.value)
    assert str(again) == str(failure.value) != ""


def test_every_error_is_exported() -> None:
    def below(kind: type[AdapterError]) -> set[str]:
        return {kind.__name__}.union(*(below(sub) for sub in kind.__subclasses__()))

    assert below(AdapterError) <= set(adapters.__all__)
