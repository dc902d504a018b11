"""What adapters do besides their outputs: laziness, independence, streams, warnings."""

import copy
import gc
import json
import pickle
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from podbay.schema.adapters import (
    AdapterOptions,
    ConfigurationValueError,
    ItemKeyError,
    ItemValueError,
    Pipeline,
    create_adapter,
    create_pipeline,
    known_kinds,
)

EXPLODE = {"kind": "ExplodeCollections", "configuration": {"collections": ["c"]}}
SELECT = {"kind": "Select", "configuration": {"fields": ["c"]}}


def transform(template: Any) -> dict[str, Any]:
    return {"kind": "TransformJSON", "configuration": template}


class Source:
    """Items that count how many were taken."""

    def __init__(self, items: list[Any]) -> None:
        self.taken = 0
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self.taken += 1
            yield item


PIPELINES = {
    "one function": [SELECT],
    "several functions": [SELECT, SELECT],
    "one to many": [EXPLODE],
    "many and one": [SELECT, EXPLODE, SELECT],
    "inside": [{"kind": "Pipeline", "configuration": {}}, EXPLODE],
}


@pytest.mark.parametrize("name", PIPELINES)
def test_nothing_is_taken_before_it_is_needed(name: str) -> None:
    source = Source([{"c": ["a", "b"]}, {"c": ["d"]}, {}])
    outputs = create_pipeline(PIPELINES[name]).apply(source)
    assert source.taken == 0
    next(outputs)
    assert source.taken == 1


def test_records_of_one_item_are_delivered_one_by_one() -> None:
    pipeline = create_pipeline([EXPLODE, transform({"t": "$.c.t"})])
    outputs = pipeline.apply([{"c": [{"t": 1}, {}, {"t": 3}]}])
    assert next(outputs) == {"t": 1}
    with pytest.raises(ItemValueError) as failure:
        next(outputs)
    assert failure.value.step == 1
    assert list(outputs) == []


def test_an_endless_source_is_fine() -> None:
    def endless() -> Iterator[dict[str, Any]]:
        while True:
            yield {"c": [1, 2]}

    outputs = create_pipeline([EXPLODE]).apply(endless())
    assert [next(outputs) for _ in range(3)] == [{"c": 1}, {"c": 2}, {"c": 1}]


def test_an_error_of_the_source_is_the_sources() -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield {"c": 1}
        raise KeyError("from the source")

    for specs in ([SELECT], [SELECT, SELECT]):
        outputs = create_pipeline(specs).apply(broken())
        assert next(outputs) == {"c": 1}
        with pytest.raises(KeyError, match="from the source") as failure:
            next(outputs)
        assert type(failure.value) is KeyError


def test_runs_share_nothing() -> None:
    pipeline = create_pipeline([EXPLODE])
    first, second = pipeline.apply([{"c": [1, 2]}]), pipeline.apply([{"c": [3, 4]}])
    assert [next(first), next(second), next(first), next(second)] == [
        {"c": 1},
        {"c": 3},
        {"c": 2},
        {"c": 4},
    ]


def test_ten_thousand_stages() -> None:
    rename = [{"kind": "Rename", "configuration": {"c": "d"}}]
    back = [{"kind": "Rename", "configuration": {"d": "c"}}]
    pipeline = create_pipeline([*(rename + back) * 5_000, EXPLODE])
    assert len(pipeline) == 10_001
    assert list(pipeline.apply([{"c": [1, 2]}])) == [{"c": 1}, {"c": 2}]
    nested = [transform({"c": ["$.c"]}), EXPLODE] * 1_000
    assert create_pipeline(nested).push({"c": 1}) == [{"c": 1}]


def test_deep_items() -> None:
    item: dict[str, Any] = {"leaf": 1}
    for _ in range(20_000):
        item = {"a": item}
    flatten = {"kind": "FlattenHierarchy", "configuration": {"addPrefix": False}}
    assert create_adapter(flatten).push(item) == [{"leaf": 1}]
    find = transform({"$compute": {"$list": "$..leaf"}})
    assert create_adapter(find).push(item) == [[1]]


def test_a_long_query() -> None:
    query = "$" + ".a" * 20_000
    item: Any = 7
    for _ in range(20_000):
        item = {"a": item}
    assert create_adapter(transform({"v": query})).push(item) == [{"v": 7}]


async def test_a_stream_is_answered_item_by_item() -> None:
    taken = 0

    async def source() -> AsyncIterator[Any]:
        nonlocal taken
        for item in ({"c": [1, 2]}, {"c": [3]}):
            taken += 1
            yield item

    outputs = create_pipeline([EXPLODE]).aapply(source())
    assert await anext(outputs) == {"c": 1}
    assert taken == 1
    assert [output async for output in outputs] == [{"c": 2}, {"c": 3}]


def test_push_returns_all_outputs_of_an_item() -> None:
    pipeline = create_pipeline([EXPLODE])
    assert pipeline.push({"c": []}) == []
    assert pipeline.push({"c": [1, 2]}) == [{"c": 1}, {"c": 2}]
    with pytest.raises(ItemKeyError):
        pipeline.push({})


def test_an_adapter_can_be_used_twice_in_a_pipeline() -> None:
    select = create_adapter(SELECT)
    rename = create_adapter({"kind": "Rename", "configuration": {"c": "d"}})
    with pytest.raises(ItemKeyError) as failure:
        Pipeline([select, rename, select]).push({"c": 1})
    assert failure.value.step == 2


def test_an_adapter_is_callable() -> None:
    assert list(create_adapter(SELECT)([{"c": 1, "d": 2}])) == [{"c": 1}]


EVERY_KIND: list[dict[str, Any]] = [
    {"kind": "Drop", "configuration": {"fields": ["x"]}},
    {"kind": "Select", "configuration": {"fields": ["c"]}},
    {"kind": "Rename", "configuration": {"c": "c"}},
    {"kind": "ExplodeCollections", "configuration": {"collections": ["c"], "index": {"i": None}}},
    {"kind": "FlattenHierarchy", "configuration": {"fields": ["c"], "addPrefix": True}},
    {"kind": "Map", "configuration": {"collections": ["c"], "adapter": transform({"v": [1]})}},
    {"kind": "Pipeline", "configuration": {}},
    transform({"a": [{"b": []}], "c": {"$compute": {"$literal": {"d": []}}}, "e": {}}),
    transform({"$compute": [{"$list": "$.c"}, {"$func": "list"}]}),
    {"kind": "FileUpload", "configuration": {"field": "$", "encoding": "json", "formFields": {}}},
]


def scramble(value: Any) -> None:
    """Changes a configuration in place, everywhere."""
    if isinstance(value, dict):
        for member in value.values():
            scramble(member)
        value.clear()
        value["scrambled"] = True
    elif isinstance(value, list):
        for element in value:
            scramble(element)
        value[:] = ["scrambled"]


@pytest.mark.parametrize("spec", EVERY_KIND, ids=lambda spec: spec["kind"])
def test_a_configuration_is_neither_changed_nor_kept(spec: dict[str, Any]) -> None:
    given = copy.deepcopy(spec)
    adapter = create_adapter(given)
    assert given == spec
    expected = adapter.push({"c": [1, 2]})
    assert create_adapter(given).push({"c": [1, 2]}) == expected, "built twice of the same"
    scramble(given["configuration"])
    assert adapter.push({"c": [1, 2]}) == expected


def test_every_kind_is_tested_for_aliases() -> None:
    assert {spec["kind"] for spec in EVERY_KIND} == known_kinds()


@pytest.mark.parametrize(
    "template",
    [
        {"v": {"$compute": {"$literal": {"d": [1]}}}},
        {"v": {"d": [1]}},
        {"v": {"$compute": [{"$list": [{"$literal": [1]}]}]}},
        {"v": {"$compute": [{"$literal": [[1]]}, {"$func": "reduce"}]}},
        {
            "v": {
                "$compute": [
                    {"$literal": "x"},
                    {"$func": "search", "pattern": "y", "default": {"d": [1]}},
                ]
            }
        },
    ],
    ids=json.dumps,
)
def test_literals_are_copied_on_output(template: Any) -> None:
    adapter = create_adapter(transform(template))
    (first,) = adapter.push({})
    expected = copy.deepcopy(first)
    scramble(first["v"])
    assert adapter.push({}) == [expected]


def test_items_are_not_changed_and_their_values_are_shared() -> None:
    inner = {"t": 1}
    item = {"c": [inner], "d": 1}
    before = copy.deepcopy(item)
    (record,) = create_pipeline([EXPLODE]).push(item)
    assert record["c"] is inner
    assert item == before


def test_nothing_of_an_item_is_kept() -> None:
    class Marked(dict[str, Any]):
        pass

    adapter = create_pipeline([SELECT, EXPLODE, transform({"v": "$.c"})])
    item = Marked(c=[1])
    gone = weakref.ref(item)
    assert adapter.push(item) == [{"v": 1}]
    del item
    gc.collect()
    assert gone() is None


def test_file_uploads_come_last() -> None:
    upload = EVERY_KIND[-1]
    with pytest.raises(ConfigurationValueError, match=r"Adapter 0 \(FileUpload\).*last"):
        create_pipeline([upload, SELECT])
    with pytest.raises(ConfigurationValueError, match="last"):
        Pipeline([create_adapter(upload), create_adapter(upload)])


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"kind": "FlattenHierarchy", "configuration": {}}, "configuration: fails"),
        ({"kind": "FlattenHierarchy", "configuration": {"depth": 1}}, "configuration.addPrefix"),
        ({"kind": "Drop", "configuration": {"fields": "ab"}}, "configuration.fields"),
        ({"kind": "Pipeline", "configuration": {"a": 1}}, "configuration: fails"),
        (
            transform({"o": {"$compute": [{"$func": "findall", "pattern": "("}]}}),
            "configuration.o.$compute[0].pattern: fails for every item: '(' is no",
        ),
        (
            {"kind": "Map", "configuration": {"collections": [], "adapter": {**EVERY_KIND[0]}}},
            None,
        ),
        (
            {
                "kind": "Map",
                "configuration": {
                    "collections": [],
                    "adapter": {"kind": "Drop", "configuration": {"fields": "x"}},
                },
            },
            "configuration.adapter.configuration.fields",
        ),
        (SELECT, None),
    ],
)
def test_what_is_probably_not_meant_is_said_when_it_is_built(
    spec: dict[str, Any], place: str | None
) -> None:
    warnings = create_pipeline([SELECT, spec]).warnings
    if place is None:
        assert warnings == ()
        return
    (warning,) = warnings
    assert warning.startswith(f"Adapter 1 ({spec['kind']}), {place}")


STRICT = AdapterOptions(strict_index=True)
EXTENDED = AdapterOptions(extensions=True)


def test_strict_index() -> None:
    spec = {
        "kind": "ExplodeCollections",
        "configuration": {"collections": ["c"], "index": {"r": "$.c[*].rank"}},
    }
    item = {"c": [{"rank": 1}, {}, {"rank": 2}]}
    assert len(create_pipeline([spec]).push(item)) == 2
    with pytest.raises(ItemValueError, match=r"configuration.index.r: .*2 values for 3 positions"):
        create_pipeline([spec], STRICT).push(item)
    assert len(create_pipeline([spec], STRICT).push({"c": [{"rank": 1}]})) == 1


@pytest.mark.parametrize("wrap", [lambda specs: specs, lambda specs: {"adapters": specs}])
def test_a_pipeline_of_json_is_an_extension(wrap: Any) -> None:
    spec = {"kind": "Pipeline", "configuration": wrap([EXPLODE, transform({"t": "$.c.t"})])}
    with pytest.raises(TypeError):
        create_pipeline([spec]).push({"c": []})
    pipeline = create_pipeline([SELECT, spec, SELECT], EXTENDED)
    with pytest.raises(ItemValueError) as failure:
        pipeline.push({"c": [{}]})
    assert failure.value.step == 1
    assert failure.value.kind == "Pipeline > TransformJSON"
    assert failure.value.path.endswith("[1].configuration.t")
    upload = {"kind": "Pipeline", "configuration": wrap([EVERY_KIND[-1], SELECT])}
    with pytest.raises(ConfigurationValueError, match="last"):
        create_adapter(upload, EXTENDED)
    upload = {"kind": "Pipeline", "configuration": wrap([EVERY_KIND[-1]])}
    with pytest.raises(ConfigurationValueError, match="last"):
        create_pipeline([upload, SELECT], EXTENDED)


def test_extended_literals() -> None:
    template = {
        "null": {"$compute": {"$literal": None}},
        "text": {"$compute": {"$scalar": "$$x"}},
        "list": {"$compute": {"$list": "$$x"}},
    }
    (output,) = create_adapter(transform(template), EXTENDED).push({})
    assert output == {"null": None, "text": "$x", "list": ["$x"]}
    for name, part in template.items():
        with pytest.raises(ConfigurationValueError):
            create_adapter(transform({name: part}))


PIPELINE = [
    SELECT,
    EXPLODE,
    transform({"v": {"$compute": [{"$scalar": "$.c"}, {"$func": "list"}]}}),
]


def test_a_copy_is_as_good_as_the_pipeline() -> None:
    pipeline = create_pipeline(PIPELINE)
    again = pickle.loads(pickle.dumps(pipeline))
    assert again.push({"c": ["ab", "c"]}) == [{"v": ["a", "b"]}, {"v": ["c"]}]
    with pytest.raises(ItemKeyError) as failure:
        again.push({})
    assert failure.value.step == 0
    assert copy.copy(pipeline) is pipeline
    assert copy.deepcopy({"here": pipeline})["here"] is pipeline


@pytest.mark.parametrize("spec", EVERY_KIND, ids=lambda spec: spec["kind"])
def test_every_kind_can_be_pickled(spec: dict[str, Any]) -> None:
    given = copy.deepcopy(spec)
    adapter = create_adapter(given)
    scramble(given["configuration"])
    item = {"c": [1, 2]}
    assert pickle.loads(pickle.dumps(adapter)).push(item) == create_adapter(spec).push(item)


def test_options_are_pickled_along() -> None:
    spec = {"kind": "Pipeline", "configuration": [SELECT]}
    again = pickle.loads(pickle.dumps(create_pipeline([spec], EXTENDED)))
    assert again.push({"c": 1, "d": 2}) == [{"c": 1}]


def test_threads_share_a_pipeline() -> None:
    flatten = {"kind": "FlattenHierarchy", "configuration": {"addPrefix": True}}
    pipeline = create_pipeline([*PIPELINE, flatten])
    start = threading.Barrier(8)

    def run(thread: int) -> bool:
        start.wait()
        items = [{"c": [f"{thread}", f"{at}", {f"{thread}-{at}": 1}]} for at in range(300)]
        made = list(pipeline.apply(items))
        return made == [
            {"v": [*text]}
            for at in range(300)
            for text in (f"{thread}", f"{at}", {f"{thread}-{at}": 1})
        ]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(8))) == [True] * 8


def test_joined_names_are_the_same_however_many_there_are() -> None:
    flatten = create_adapter({"kind": "FlattenHierarchy", "configuration": {"addPrefix": True}})
    items = [{f"a{at % 100}": {f"b{at}": at, "c": {"d": at}}} for at in range(500)]
    expected = [{f"a{at % 100}.b{at}": at, f"a{at % 100}.c.d": at} for at in range(500)]
    assert list(flatten.apply(items)) == list(flatten.apply(items)) == expected


def test_rows_of_many_names_are_looped_over() -> None:
    names = [f"n{at}" for at in range(100)]
    item = {name: at for at, name in enumerate(names)} | {"rest": 1}

    def only(kind: str, configuration: Any) -> Any:
        (output,) = create_adapter({"kind": kind, "configuration": configuration}).push(item)
        return output

    assert only("Drop", {"fields": names}) == {"rest": 1}
    assert list(only("Select", {"fields": names[::-1]}).items()) == [
        (name, item[name]) for name in names[::-1]
    ]
    renamed = only("Rename", {name: f"{name}!" for name in names})
    assert list(renamed.items()) == [("rest", 1), *((f"{n}!", item[n]) for n in names)]
    explode = {"collections": names}
    lists = {name: [at, at + 1] for at, name in enumerate(names)}
    wrap = {"collections": names, "adapter": transform(["$"])}
    assert create_adapter({"kind": "Map", "configuration": wrap}).push(lists) == [
        {name: [[at], [at + 1]] for at, name in enumerate(names)}
    ]
    records = create_adapter({"kind": "ExplodeCollections", "configuration": explode}).push(lists)
    assert records == [{n: lists[n][at] for n in names} for at in range(2)]


NASTY = ["'", '"', "\\", "\n", "{}", "{c0}", "c0", "value", "at", "); import os; (", "\ud800", ""]


@pytest.mark.parametrize("name", NASTY)
def test_no_name_gets_into_the_compiled_lines(name: str) -> None:
    item = {name: [1], "other": 2}
    assert create_pipeline([{"kind": "Drop", "configuration": {"fields": [name]}}]).push(item) == [
        {"other": 2}
    ]
    specs = [
        {"kind": "Rename", "configuration": {name: f"{name}{name}x"}},
        {"kind": "Rename", "configuration": {f"{name}{name}x": name}},
        {
            "kind": "ExplodeCollections",
            "configuration": {"collections": [name], "index": {f"{name}!": None}},
        },
        {"kind": "Select", "configuration": {"fields": [f"{name}!", name]}},
    ]
    assert create_pipeline(specs).push(item) == [{f"{name}!": 0, name: 1}]
