from __future__ import annotations

import json

import pytest

from podbay.v1 import errors_pb2
from podbay_kit.auth import Scope
from podbay_kit.errors import ServiceError
from podbay_kit.resource_filters import ResourceFilter, compile_filter, lookup
from tests.support.resource_store import SHIPS, VOYAGES

DOCUMENT = {
    "id": "1",
    "account": "acme",
    "status": "Ready",
    "name": "discovery",
    "labels": {"dyff.io/access": "public", "deck": "3"},
    "model": {"id": "m1", "name": "hal", "size": 9000, "sane": True, "note": None},
    "crew": [{"name": "Dave", "ranks": [1, 2]}, {"name": "Frank", "ranks": []}],
}
ALL = Scope(everything=True)


def matches(**fields: object) -> bool:
    return compile_filter(ResourceFilter(**fields), SHIPS).matches(DOCUMENT, ALL)  # type: ignore[arg-type] # names are fields


def query(value: object) -> bool:
    return matches(query=value if isinstance(value, str) else json.dumps(value))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"id": "1"}, True),
        ({"id": "2"}, False),
        ({"account": "acme", "status": "Ready"}, True),
        ({"account": "acme", "status": "Created"}, False),
        ({"reason": "Late"}, False),
        ({"name": "discovery"}, True),
        ({"model": "m1"}, True),
        ({"model_name": "hal"}, True),
        ({"model_name": "m1"}, False),
        ({"labels": {"deck": "3"}}, True),
        ({"labels": {"deck": "3", "dyff.io/access": "public"}}, True),
        ({"labels": {"deck": "3", "wing": "a"}}, False),
    ],
)
def test_fields_must_all_hold(fields: dict[str, object], expected: bool) -> None:
    assert matches(**fields) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, True),
        ([], True),
        ({"status": "Ready"}, True),
        ({"status": ["Created", "Ready"]}, True),
        ({"status": ["Created", "Error"]}, False),
        ({"status": []}, False),
        ([{"status": "Ready"}, {"name": "discovery"}], True),
        ([{"status": "Ready"}, {"name": "nostromo"}], False),
        ({"reason": None}, True),
        ({"status": None}, False),
        ({"modelName": "hal"}, True),
        ({"model.size": 9000}, True),
        ({"model.size": 9000.0}, True),
        ({"model.size": "9000"}, False),
        ({"model.sane": True}, True),
        ({"model.sane": 1}, False),
        ({"model.note": None}, True),
        ({"model.absent": None}, True),
        ({"crew.name": "Frank"}, True),
        ({"crew.1.name": "Frank"}, True),
        ({"crew.0.name": "Frank"}, False),
        ({"crew.9.name": "Frank"}, False),
        ({"crew.ranks": 2}, True),
        ({"labels.dyff.io/access": "public"}, True),
        ({"labels.deck": ["1", "3"]}, True),
    ],
)
def test_queries(value: object, expected: bool) -> None:
    assert query(value) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "nonsense",
        "NaN",
        '{"model.size": NaN}',
        "1",
        '"text"',
        "null",
        "[1]",
        "[[{}]]",
        "[" * 50_000,
        '{"model.size": ' + "9" * 10_000 + "}",
        " " * 70_000,
        '{"unknown": 1}',
        '{"unknown.path": 1}',
        '{"creationTime": "2030-01-01T00:00:00Z"}',
        '{"status": 5}',
        '{"status": {"$ne": "Ready"}}',
        '{"status": [["Ready"]]}',
        '{"status": "\\ud800"}',
        '{"status": "\\u0000"}',
        '{"\\ud800.a": "x"}',
        '{"model..id": "x"}',
        '{"model.": "x"}',
        '{"crew.' + ".".join("a" * 20) + '": "x"}',
        json.dumps({"status": ["x"] * 1001}),
        json.dumps([{"status": "x"}] * 101),
    ],
)
def test_bad_queries_name_the_field(text: str) -> None:
    with pytest.raises(ServiceError) as caught:
        compile_filter(ResourceFilter(query=text), SHIPS)
    assert caught.value.reason == errors_pb2.ERROR_REASON_INVALID_REQUEST
    assert caught.value.violations[0][0] in {"filter.query", "filter"}


def test_a_field_that_the_kind_has_not_is_refused() -> None:
    with pytest.raises(ServiceError) as caught:
        compile_filter(ResourceFilter(inference_service="s"), SHIPS)
    assert caught.value.violations[0][0] == "filter.inferenceService"


@pytest.mark.parametrize("labels", [{"bad key": "v"}, {"key": "bad value"}, {"under_score": "v"}])
def test_labels_are_validated(labels: dict[str, str]) -> None:
    with pytest.raises(ServiceError) as caught:
        compile_filter(ResourceFilter(labels=labels), SHIPS)
    assert caught.value.violations[0][0].startswith("filter.labels")


def test_keys_of_a_session_reach_into_its_service() -> None:
    document = {
        "id": "1",
        "account": "acme",
        "inferenceService": {"id": "s1", "name": "chat", "model": {"id": "m1", "name": "hal"}},
    }

    def match(**fields: str) -> bool:
        return compile_filter(ResourceFilter(**fields), VOYAGES).matches(document, ALL)

    assert match(inference_service="s1", inference_service_name="chat")
    assert match(model="m1", model_name="hal")
    assert not match(model="m2")
    assert not match(name="chat")  # a session has no name, so none matches
    assert match(query='{"name": null, "inferenceService.model.id": "m1"}')


def test_scope_hides_what_it_does_not_cover() -> None:
    everything = compile_filter(ResourceFilter(), SHIPS)
    assert not everything.matches(DOCUMENT, Scope())
    assert everything.matches(DOCUMENT, Scope(accounts=frozenset({"acme"})))
    assert everything.matches(DOCUMENT, Scope(entities=frozenset({"1"})))
    assert not everything.matches(DOCUMENT, Scope(accounts=frozenset({"other"})))


def test_equal_filters_have_equal_keys() -> None:
    def key(**fields: object) -> str:
        return compile_filter(ResourceFilter(**fields), SHIPS).key()  # type: ignore[arg-type] # names are fields

    assert key(status="Ready") == key(query='{"status": "Ready"}')
    assert key(labels={"a": "1", "b": "2"}) == key(labels={"b": "2", "a": "1"})
    assert key(status="Ready") != key(reason="Ready")
    assert key() != key(labels={"a": "1"})


def test_lookup_yields_scalars_only() -> None:
    assert list(lookup({"a": {"b": 1}}, ("a",))) == []
    assert list(lookup({"a": [1, None, [2], {"b": 3}]}, ("a",))) == [1, 2]
    assert list(lookup("text", ("a",))) == []
