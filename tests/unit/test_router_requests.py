"""Which calls can be sent, and what is sent."""

import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value

from podbay.v1 import errors_pb2
from podbay.v1.inference_router_service_pb2 import Call, FileUpload, FormField, InferRequest
from podbay_inference_router import multipart, values
from podbay_inference_router.requests import RequestError, check_key, prepare


def refusal(message: Call | InferRequest, limit: int = 1000) -> errors_pb2.CallError:
    with pytest.raises(RequestError) as caught:
        prepare(message, limit)
    assert caught.value.failure.not_started
    return caught.value.failure


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        ("generate", "/generate"),
        ("/generate", "/generate"),
        ("v1/chat/completions", "/v1/chat/completions"),
        ("a?b=c&d=%20e", "/a?b=c&d=%20e"),
        ("v1/models/m:predict", "/v1/models/m:predict"),
        ("%C3%BC", "/%C3%BC"),
        ("a..b/...", "/a..b/..."),
    ],
)
def test_endpoints_become_paths(endpoint: str, path: str) -> None:
    assert prepare(Call(endpoint=endpoint, json=b"1"), 10).path == path


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "a b",
        "a\r\nX-Evil: 1",
        "a\nb",
        "a\x00b",
        "a\tb",
        "a\x7f",
        "http://other/x",
        "HTTPS://other/x",
        "file:/etc",
        "//other/x",
        "über",
        "a%zz",
        "a%4",
        "a#b",
        'a"b',
        "a\\b",
        "../x",
        "a/./b",
        "a/..",
        "x" * 3000,
    ],
)
def test_an_endpoint_that_is_no_path_is_refused(endpoint: str) -> None:
    error = refusal(Call(endpoint=endpoint, json=b"1"))
    assert error.reason == errors_pb2.ERROR_REASON_INVALID_REQUEST
    assert [item.field for item in error.violations] == ["endpoint"]


def test_json_passes_untouched() -> None:
    body = b'{"n": 18446744073709551617, not json'
    request = prepare(InferRequest(endpoint="x", json=body), 1000)
    assert request == ("/x", "application/json", body, False)


@pytest.mark.parametrize("message", [Call(endpoint="x"), Call(endpoint="x", json=b"")])
def test_a_call_without_a_body_is_refused(message: Call) -> None:
    error = refusal(message)
    assert [item.field for item in error.violations] == ["body"]


def test_a_body_above_the_limit_is_refused() -> None:
    assert prepare(Call(endpoint="x", json=b"12345"), 5).body == b"12345"
    for message in (
        Call(endpoint="x", json=b"123456"),
        Call(
            endpoint="x",
            file_upload=FileUpload(name="f", filename="f", content_type="a/b", content=b"123456"),
        ),
    ):
        assert refusal(message, 5).reason == errors_pb2.ERROR_REASON_BODY_TOO_LARGE


def test_values_are_written_as_json() -> None:
    value = Value()
    json_format.ParseDict({"a": [1, 2.5, -3, True, None, "ü", {}, []], "big": 1e300}, value)
    request = prepare(InferRequest(endpoint="x", value=value), 1000)
    assert request.wants_values
    assert json.loads(request.body) == json_format.MessageToDict(value)
    assert b"[1,2.5,-3,true,null," in request.body


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_know_is_refused(number: float) -> None:
    error = refusal(InferRequest(endpoint="x", value=Value(number_value=number)))
    assert [item.field for item in error.violations] == ["value"]


def test_a_value_of_no_kind_is_refused() -> None:
    assert refusal(InferRequest(endpoint="x", value=Value())).violations[0].field == "value"


@pytest.mark.parametrize(
    "item", [None, True, 1.5, "x", [], {}, {"a": {"b": [1, {"c": None}]}}, [[], [1]], 2**60]
)
def test_json_is_read_as_values(item: Any) -> None:
    assert json_format.MessageToDict(values.from_json(json.dumps(item).encode())) == item


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[" * 40 + b"]" * 40, b"[" * 100_000])
def test_what_has_no_form_as_a_value_is_refused(text: bytes) -> None:
    with pytest.raises(values.ValueFormError):
        values.from_json(text)


def test_a_key_is_as_long_as_its_bytes() -> None:
    assert check_key("k" * 1024)
    assert check_key("é" * 512)
    for key in ("k" * 1025, "é" * 513):
        with pytest.raises(RequestError, match="longer than 1024 bytes"):
            check_key(key)


@pytest.mark.parametrize(
    "text", [b"NaN", b'{"a":[-Infinity]}', b"1e999", b"1" + b"0" * 400], ids=range(4)
)
def test_a_number_that_no_value_can_be_is_refused(text: bytes) -> None:
    with pytest.raises(values.ValueFormError, match="a number that a value cannot be"):
        values.from_json(text)


def test_what_is_nested_too_deeply_is_not_called_no_json() -> None:
    with pytest.raises(values.ValueFormError, match="nested"):
        values.from_json(b"[" * 100_000 + b"]" * 100_000)


def test_a_lone_surrogate_is_replaced() -> None:
    assert values.from_json(b'"\\ud800"').string_value == "?"


def test_an_upload_is_multipart() -> None:
    upload = FileUpload(
        name="image",
        filename='a "q"\r\nX: y.png',
        content_type="image/png",
        content=b"hello",
        form_fields=[FormField(name="model", value="m"), FormField(name="n\n", value="3")],
    )
    content_type, body = multipart.encode(upload, "BOUNDARY")
    assert content_type == "multipart/form-data; boundary=BOUNDARY"
    assert body.split(b"\r\n") == [
        b"--BOUNDARY",
        b'Content-Disposition: form-data; name="model"',
        b"",
        b"m",
        b"--BOUNDARY",
        b'Content-Disposition: form-data; name="n%0A"',
        b"",
        b"3",
        b"--BOUNDARY",
        b'Content-Disposition: form-data; name="image"; filename="a %22q%22%0D%0AX: y.png"',
        b"Content-Type: image/png",
        b"",
        b"hello",
        b"--BOUNDARY--",
        b"",
    ]


@pytest.mark.parametrize(
    ("field", "upload"),
    [
        ("fileUpload.name", FileUpload(filename="f", content_type="a/b")),
        ("fileUpload.filename", FileUpload(name="f", content_type="a/b")),
        ("fileUpload.contentType", FileUpload(name="f", filename="f")),
        ("fileUpload.contentType", FileUpload(name="f", filename="f", content_type="a\r\nX: y")),
        ("fileUpload.contentType", FileUpload(name="f", filename="f", content_type="ü")),
    ],
)
def test_an_upload_that_cannot_be_sent_is_refused(field: str, upload: FileUpload) -> None:
    assert refusal(Call(endpoint="x", file_upload=upload)).violations[0].field == field


def test_boundaries_differ() -> None:
    upload = FileUpload(name="f", filename="f", content_type="a/b", content=b"x")
    call = Call(endpoint="x", file_upload=upload)
    assert prepare(call, 1000).content_type != prepare(call, 1000).content_type
