"""How a body becomes a call, and an answer the user's items; and the bookkeeping of many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from podbay._core import inference
from podbay._core.exchange import Call
from podbay._core.inference import CallShape
from podbay._core.many import Many
from podbay._core.timeouts import check_timeout
from podbay.errors import InvalidRequestError, ReplicaError, error_for
from podbay.schema.adapters import AdapterError
from podbay.schema.platform import InferenceInterface
from podbay.types import InferResult
from podbay.v1 import inference_router_service_pb2 as wire

INTERFACE = {
    "endpoint": "v1/complete",
    "outputSchema": {"arrowSchema": ""},
    "inputPipeline": [
        {"kind": "TransformJSON", "configuration": {"prompt": "$.text"}},
    ],
    "outputPipeline": [
        {"kind": "ExplodeCollections", "configuration": {"collections": ["choices"]}},
        {"kind": "TransformJSON", "configuration": {"text": "$.choices.text"}},
    ],
}


def items(*texts: bytes) -> list[wire.Item]:
    return [wire.Item(json=text) for text in texts]


@pytest.mark.parametrize("interface", [INTERFACE, InferenceInterface.model_validate(INTERFACE)])
def test_the_interface_gives_endpoint_and_pipelines(interface: Any) -> None:
    shape = CallShape(interface, None, None, None)
    assert shape.endpoint == "v1/complete"
    assert shape.prepare({"text": "é"}) == '{"prompt":"é"}'.encode()
    answer = items(b'{"choices": [{"text": "a"}, {"text": "b"}]}')
    assert shape.results(answer) == [{"text": "a"}, {"text": "b"}]


def test_what_is_given_wins_over_the_interface() -> None:
    def wrap(stream: Iterable[Any]) -> Iterable[Any]:
        return ({"wrapped": item} for item in stream)

    def count(stream: Iterable[Any]) -> Iterable[Any]:
        return [len(list(stream))]

    shape = CallShape(INTERFACE, "/other", wrap, count)
    assert shape.endpoint == "other"
    assert shape.prepare(1) == b'{"wrapped":1}'
    assert shape.results(items(b"1", b"2")) == [2]


def test_without_adapters_items_pass() -> None:
    shape = CallShape(None, "e", None, None)
    assert shape.prepare([1, None]) == b"[1,null]"
    assert shape.results(items(b"[1, 2]", b"null")) == [[1, 2], None]


def test_an_endpoint_or_an_interface_is_needed() -> None:
    with pytest.raises(InvalidRequestError, match="endpoint"):
        CallShape(None, None, None, None)
    with pytest.raises(InvalidRequestError, match="outputSchema"):
        CallShape({"endpoint": "e"}, None, None, None)
    with pytest.raises(AdapterError):
        CallShape({**INTERFACE, "inputPipeline": [{"kind": "NoSuchKind"}]}, None, None, None)
    upload = [{"kind": "FileUpload", "configuration": {"field": "$.a"}}]
    with pytest.raises(ValueError, match="FileUpload"):
        CallShape({**INTERFACE, "outputPipeline": upload}, None, None, None)


@pytest.mark.parametrize(
    ("made", "what"), [([], "no item"), ([1, 2], "more than one"), ([None], "null")]
)
def test_a_body_makes_one_item(made: list[Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        CallShape(None, "e", lambda _items: made, None).prepare({})


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def circular() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (float("nan"), "NaN"),
        ([float("inf")], "infinity"),
        ({"a": object()}, "not JSON"),
        (b"bytes", "not JSON"),
        ("\ud800", "surrogate"),
        (circular(), "itself"),
        (nested(100_000), "deeply"),
    ],
)
def test_what_is_not_json_is_refused(body: Any, why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why):
        CallShape(None, "e", None, None).prepare(body)


def test_a_body_that_is_too_large_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "MAX_BODY_BYTES", 10)
    shape = CallShape(None, "e", None, None)
    assert shape.prepare("x" * 8) == b'"xxxxxxxx"'
    with pytest.raises(InvalidRequestError) as caught:
        shape.prepare("x" * 9)
    assert (caught.value.reason, caught.value.status_code) == ("BODY_TOO_LARGE", 413)
    with pytest.raises(InvalidRequestError):
        shape.prepare(envelope(b"x" * 11))


def envelope(content: Any) -> dict[str, Any]:
    return {
        "$fileUpload": {
            "name": "file",
            "filename": "a.png",
            "contentType": "image/png",
            "content": content,
            "formFields": {"b": "1", "a": "2"},
        }
    }


def test_a_file_upload_travels_as_one() -> None:
    prepared = CallShape(None, "e", None, None).prepare(envelope(b"\0\xff"))
    assert isinstance(prepared, wire.FileUpload)
    assert (prepared.name, prepared.filename) == ("file", "a.png")
    assert (prepared.content_type, prepared.content) == ("image/png", b"\0\xff")
    assert [(f.name, f.value) for f in prepared.form_fields] == [("b", "1"), ("a", "2")]
    with pytest.raises(ValueError, match="content"):
        CallShape(None, "e", None, None).prepare(envelope("text"))


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000])
def test_an_answer_that_is_not_json(text: bytes) -> None:
    with pytest.raises(ReplicaError) as caught:
        CallShape(None, "e", None, None).results(items(text))
    assert caught.value.reason == "REPLICA_BAD_ANSWER"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"{", "are not JSON"),
        (b"\xff", "are not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more deeply"),
        (b"9" * 5000, "more digits"),
    ],
    ids=range(4),
)
def test_an_answer_that_cannot_be_read_says_what_of_it(text: bytes, why: str) -> None:
    with pytest.raises(ReplicaError, match=why):
        CallShape(None, "e", None, None).results(items(text))


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_timeouts_are_numbers_above_zero(timeout: float) -> None:
    assert check_timeout(None, 2) == 2.0
    with pytest.raises(InvalidRequestError, match="timeout"):
        check_timeout(timeout, 1.0)


def decode(gotten: Sequence[wire.Item], _replica: str) -> list[Any]:
    return [item.json for item in gotten]


def start(many: Many, count: int) -> list[Call]:
    calls = [Call("e", b"", stream=False, deadline=float(n)) for n in range(count)]
    for one in calls:
        assert many.wants_body
        many.started(one, one.deadline)
    return calls


def drain(many: Many) -> list[InferResult]:
    results = []
    while (result := many.next_result()) is not None:
        results.append(result)
    return results


def test_many_in_order() -> None:
    many = Many(3, ordered=True, decode=decode)
    calls = start(many, 3)
    assert not many.wants_body
    many.delivered(calls[2], items(b"c"), True, None)
    many.delivered(calls[1], items(b"b"), False, None)
    assert drain(many) == []
    many.delivered(calls[1], items(b"B"), True, None)
    many.delivered(calls[0], (), True, error_for("QUEUE_FULL", "m"))
    results = drain(many)
    assert [r.index for r in results] == [0, 1, 2]
    assert [r.items for r in results] == [None, [b"b", b"B"], [b"c"]]
    assert many.oldest is None


def test_many_in_order_holds_a_bounded_number_back() -> None:
    many = Many(2, ordered=True, decode=decode)
    first = start(many, 1)[0]
    taken = 1
    while many.wants_body:
        (one,) = start(many, 1)
        many.delivered(one, (), True, None)
        taken += 1
    assert taken == 4
    many.delivered(first, (), True, None)
    assert [r.index for r in drain(many)] == [0, 1, 2, 3]
    assert many.wants_body


def test_many_as_they_come() -> None:
    many = Many(2, ordered=False, decode=decode)
    first, second = start(many, 2)
    many.delivered(second, items(b"2"), True, None)
    many.refused(ValueError("no"))
    assert [r.index for r in drain(many)] == [1, 2]
    assert many.oldest == (first, 0.0)
    assert many.calls == [first]


def test_an_error_of_the_output_is_the_item_s() -> None:
    def broken(_items: Sequence[wire.Item], _replica: str) -> list[Any]:
        raise KeyError("text")

    many = Many(1, ordered=True, decode=broken)
    (one,) = start(many, 1)
    many.delivered(one, (), True, None)
    (result,) = drain(many)
    assert isinstance(result.error, KeyError)
    with pytest.raises(KeyError):
        result.unwrap()


def test_max_in_flight_is_at_least_one() -> None:
    make: Callable[[], Many] = lambda: Many(0, ordered=True, decode=decode)  # noqa: E731 # one use
    with pytest.raises(InvalidRequestError, match="max_in_flight"):
        make()
