"""What an answer's head and bytes mean."""

import json

import pytest

from podbay_inference_router.answers import Answer, AnswerError


def answer(status: int = 200, content_type: str = "application/json", encoding: str = "") -> Answer:
    made = Answer(100, 50)
    made.head(status, content_type, encoding, "")
    return made


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"],
)
def test_json_passes_unparsed(content_type: str) -> None:
    it = answer(content_type=content_type)
    assert it.feed(b'{"a":') == []
    assert it.feed(b"1") == []
    assert it.end() == [(b'{"a":1', "")]


@pytest.mark.parametrize("content_type", ["", "text/plain"])
def test_another_type_passes_where_it_is_json_after_all(content_type: str) -> None:
    it = answer(content_type=content_type)
    it.feed(b'{"a":1}')
    assert it.end() == [(b'{"a":1}', "")]


@pytest.mark.parametrize("content_type", ["", "text/html"])
def test_another_type_that_is_not_json_is_refused(content_type: str) -> None:
    it = answer(content_type=content_type)
    it.feed(b"<html>")
    with pytest.raises(AnswerError, match="not JSON"):
        it.end()


def test_an_empty_body_is_no_json() -> None:
    with pytest.raises(AnswerError, match="empty body"):
        answer().end()


def test_no_content_is_no_item() -> None:
    assert answer(status=204, content_type="").end() == []


@pytest.mark.parametrize("content_type", ["application/x-ndjson", "application/jsonl"])
def test_lines_come_one_by_one(content_type: str) -> None:
    it = answer(content_type=content_type)
    assert it.feed(b"1\n2\n3") == [(b"1", ""), (b"2", "")]
    assert it.end() == [(b"3", "")]


@pytest.mark.parametrize("closed", [False, True])
def test_a_last_line_that_is_cut_off_is_told(closed: bool) -> None:
    it = answer(content_type="application/jsonl")
    assert it.feed(b'1\n{"a":') == [(b"1", "")]
    with pytest.raises(AnswerError, match="in the middle of a line"):
        it.end(closed=closed)
    whole = answer(content_type="application/jsonl")
    whole.feed(b'1\n{"a":NaN}')
    assert whole.end(closed=closed) == [(b'{"a":NaN}', "")]


def test_an_event_that_is_cut_off_by_the_end_of_the_connection_is_told() -> None:
    cut = answer(content_type="text/event-stream")
    assert cut.feed(b'data: 1\n\ndata: {"a":') == [(b"1", "")]
    with pytest.raises(AnswerError, match="in the middle of an event"):
        cut.end(closed=True)
    for last, piece in ((b'data: {"a":1}', b'{"a":1}'), (b"data: [DONE]", None)):
        whole = answer(content_type="text/event-stream")
        whole.feed(last)
        assert whole.end(closed=True) == ([(piece, "")] if piece else [])
    # A body whose length the replica tells ends where the replica means it to.
    told = answer(content_type="text/event-stream")
    told.feed(b"data: hello")
    assert told.end() == [(b'"hello"', "")]


def test_json_that_is_cut_off_by_the_end_of_the_connection_is_told() -> None:
    cut = answer()
    cut.feed(b'{"a":')
    with pytest.raises(AnswerError, match="in the middle of its JSON"):
        cut.end(closed=True)
    whole = answer()
    whole.feed(b'\xef\xbb\xbf{"a":NaN}')
    assert whole.end(closed=True) == [(b'\xef\xbb\xbf{"a":NaN}', "")]


def text(content_type: str, *parts: bytes, pieces: bool) -> list[str]:
    made = Answer(100, 50)
    made.head(200, content_type, "", "", chunked=True, pieces=pieces)
    taken = [piece for part in parts for piece in made.feed(part)] + made.end()
    return [json.loads(piece) for piece, _ in taken]


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize(
    ("content_type", "charset"),
    [
        ("text/plain", "utf-8"),
        ("text/plain; charset=iso-8859-1", "latin-1"),
        ('text/plain; format=flowed; Charset="UTF-16LE"', "utf-16-le"),
    ],
)
def test_a_text_is_read_in_its_charset(content_type: str, charset: str, pieces: bool) -> None:
    data = "café olé".encode(charset)
    assert "".join(text(content_type, data[:5], data[5:], pieces=pieces)) == "café olé"


@pytest.mark.parametrize("name", ["klingon", "hex", ""])
def test_a_text_in_a_charset_that_nobody_knows_is_refused(name: str) -> None:
    with pytest.raises(AnswerError, match="charset"):
        text(f"text/plain; charset={name}", b"x", pieces=True)


def test_a_text_may_be_empty() -> None:
    assert text("text/plain", pieces=False) == [""]
    assert text("text/plain", pieces=True) == []


def test_events_come_one_by_one() -> None:
    it = answer(content_type="text/event-stream")
    assert it.feed(b"event: e\ndata: 1\n\n") == [(b"1", "e")]
    assert not it.complete
    it.feed(b"data: [DONE]\n\n")
    assert it.complete


def test_a_compressed_body_is_refused() -> None:
    with pytest.raises(AnswerError, match="compressed"):
        answer(encoding="gzip")
    answer(encoding="identity")


def test_an_answer_above_the_limit_is_refused() -> None:
    it = answer()
    it.feed(b"x" * 100)
    with pytest.raises(AnswerError, match="larger than 100 bytes"):
        it.feed(b"x")


def test_a_line_above_the_limit_is_refused() -> None:
    with pytest.raises(AnswerError, match="larger than 100 bytes"):
        answer(content_type="application/jsonl").feed(b"x" * 101)


def test_a_refusal_is_read_up_to_its_limit() -> None:
    it = answer(status=500, content_type="text/event-stream", encoding="gzip")
    it.feed(b"x" * 50)
    assert it.refused
    assert not it.complete
    it.feed(b"y" * 100)
    assert it.complete
    assert not it.body  # nobody could read it
    plain = answer(status=500)
    plain.feed(b"x" * 50)
    assert plain.body == b"x" * 50
