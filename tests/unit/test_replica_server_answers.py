import json

import pytest

from podbay_kit.replica_server.answers import (
    EVENT_STREAM,
    JSON,
    NDJSON,
    UnserializableAnswerError,
    choose_framing,
    encode_answer,
    encode_json,
)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ([], NDJSON),
        ([b""], NDJSON),
        ([b"*/*"], NDJSON),
        ([b"application/json"], NDJSON),
        ([b"text/event-stream"], EVENT_STREAM),
        ([b"Text/Event-Stream; charset=utf-8"], EVENT_STREAM),
        ([b"application/json, text/event-stream"], EVENT_STREAM),
        ([b"application/json", b"text/event-stream"], EVENT_STREAM),
        ([b"text/event-stream, application/x-ndjson"], EVENT_STREAM),
        ([b"application/x-ndjson, text/event-stream"], NDJSON),
        ([b"application/x-ndjson;q=0.5, text/event-stream"], EVENT_STREAM),
        ([b"text/event-stream;q=0.5, application/jsonl"], NDJSON),
        ([b"text/event-stream;q=0"], NDJSON),
        ([b"text/event-stream;q=much"], NDJSON),
        ([b"\xff\xfe"], NDJSON),
    ],
)
def test_the_accept_header_chooses(accept: list[bytes], media_type: str) -> None:
    assert choose_framing(accept).media_type == media_type


def test_events_are_framed_and_ended() -> None:
    framing = choose_framing([b"text/event-stream"])
    assert framing.frame({"a": "x\ny"}) == b'data: {"a":"x\\ny"}\n\n'
    assert framing.end == b"data: [DONE]\n\n"


def test_one_answer_is_json_and_a_list_is_lines() -> None:
    assert encode_answer({"a": 1}) == (JSON, b'{"a":1}')
    assert encode_answer("text") == (JSON, b'"text"')
    assert encode_answer(None) == (JSON, b"null")
    assert encode_answer([{"a": 1}, [2]]) == (NDJSON, b'{"a":1}\n[2]\n')
    assert encode_answer(({"a": 1},)) == (NDJSON, b'{"a":1}\n')
    assert encode_answer([]) == (NDJSON, b"")


def test_no_text_breaks_a_line_and_every_text_can_be_written() -> None:
    text = "a\u2028b\u0085c\ud800\n"
    line = encode_json(text)
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == text


def test_large_integers_keep_their_digits() -> None:
    assert encode_json(2**70) == b"1180591620717411303424"


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), {"a": b"bytes"}, {(1, 2): 3}])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(UnserializableAnswerError, match="the answer is not JSON"):
        encode_json(value)


def test_a_cycle_is_refused() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(UnserializableAnswerError):
        encode_json({"a": cycle})
