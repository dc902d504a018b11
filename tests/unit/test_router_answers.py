"""What an answer's head and bytes mean."""

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
    assert it.body.startswith(b"x" * 50)
