"""Long texts are read and written as by the standard library, to the byte and the exception."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pydantic_core  # noqa: F401 - without it the standard library does everything
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podbay.schema import jsontext
from podbay.schema.jsontext import loads, quick_dumps

LONG = "x" * 600

texts = st.text(st.characters(codec=None, categories=None)) | st.text(
    st.sampled_from('"\\/\b\f\n\r\t\x00\x1f\x7f\x80\u2028\ud800')
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.integers(-(2**70), 2**70),
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)


def outcome(read: Callable[[bytes], Any], text: bytes) -> object:
    try:
        return repr(read(text))
    except (ValueError, RecursionError) as error:
        return type(error), str(error)


@settings(max_examples=300)
@given(values, st.sampled_from(["utf-8", "utf-16", "utf-32-be"]), st.booleans())
def test_json_is_read_alike(value: Any, encoding: str, ascii_only: bool) -> None:
    text = json.dumps([value, LONG], ensure_ascii=ascii_only).encode(encoding, "surrogatepass")
    assert outcome(loads, text) == outcome(json.loads, text)


@settings(max_examples=300)
@given(values, st.integers(0, 700), st.binary(max_size=3), st.integers(0, 3))
def test_what_is_not_json_fails_alike(value: Any, at: int, put: bytes, take: int) -> None:
    text = json.dumps([value, LONG]).encode()
    broken = text[:at] + put + text[at + take :]
    assert outcome(loads, broken) == outcome(json.loads, broken)


@pytest.mark.parametrize(
    "text",
    [
        *[
            "1" * 30,
            "1" * 4301,
            "-0",
            "-0.0",
            "1e999",
            "5e-324",
            "0." + "1" * 400,
            "1" * 400 + ".0",
        ],
        *["NaN", "-Infinity", "-NaN", "01", "1.", ".5", "+1", "nul", "[1,]", '{"a":1,"a":2}'],
        *['"\\ud800"', '"\\ud83d\\ude00"', '"\\x"', '"\x7f"', '"\x01"', "[" * 500 + "]" * 500],
        *["[" * 200_000, "2.2250738585072011e-308", "9223372036854775808", "18446744073709551616"],
    ],
)
def test_corners_are_read_alike(text: str) -> None:
    whole = f'["{LONG}", {text}]'.encode()
    assert outcome(loads, whole) == outcome(json.loads, whole)


@settings(max_examples=500)
@given(values, st.sampled_from([LONG, LONG + '\x00\x1f\x7f"\\/\n', "ö" + LONG]))
def test_json_is_written_alike_or_not_at_all(value: Any, text: str) -> None:
    written = quick_dumps({"text": text, "more": [value]})
    assert written in {
        None,
        json.dumps(
            {"text": text, "more": [value]}, separators=(",", ":"), ensure_ascii=False
        ).encode(errors="surrogatepass"),
    }


def test_a_long_text_is_written() -> None:
    assert quick_dumps({"text": LONG, "n": [1, True, None]}) is not None
    assert loads(b'{"text": "%b"}' % LONG.encode()) == {"text": LONG}


@pytest.mark.parametrize(
    "value",
    [
        {"text": LONG, "more": float("nan")},
        {"text": LONG, "more": 0.5},
        {"text": LONG, "more": 2**64},
        {"text": LONG, "more": b"bytes"},
        {"text": LONG, 1: 2},
        {"text": LONG, "more": (1,)},
        {"text": LONG, "more": [0] * 100},
        {"text": "short"},
    ],
)
def test_what_may_come_out_differently_or_gains_nothing_is_left(value: Any) -> None:
    assert quick_dumps(value) is None


def test_what_refers_to_itself_is_left() -> None:
    value: dict[str, Any] = {"text": LONG}
    value["self"] = value
    assert quick_dumps(value) is None


def test_nobody_waits_for_the_import() -> None:
    """A process without pydantic reads by the standard library until it is there."""
    program = """if True:
        import sys
        from podbay.schema.jsontext import loads, quick_dumps
        assert "pydantic_core" not in sys.modules
        value = {"text": "x" * 600}
        assert quick_dumps(value) is None
        while (text := quick_dumps(value)) is None:
            pass
        assert loads(text) == value
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert jsontext.__all__ == ["loads", "quick_dumps"]
