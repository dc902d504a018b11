"""How bodies are split into pieces."""

import pytest

from podbay_inference_router.framing import EventFramer, FramingError, LineFramer


def lines(*data: bytes, limit: int = 1000) -> list[tuple[bytes, str]]:
    framer = LineFramer(limit)
    return [piece for part in data for piece in framer.feed(part)] + framer.end()


def events(*data: bytes, limit: int = 1000) -> list[tuple[bytes, str]]:
    framer = EventFramer(limit)
    return [piece for part in data for piece in framer.feed(part)] + framer.end()


def test_a_piece_is_a_line_that_is_not_blank() -> None:
    assert lines(b'{"a":1}\n\n  \n{"a":2}\r\n[3]') == [
        (b'{"a":1}', ""),
        (b'{"a":2}', ""),
        (b"[3]", ""),
    ]


def test_a_line_comes_as_soon_as_it_is_complete() -> None:
    framer = LineFramer(100)
    assert framer.feed(b'{"a"') == []
    assert framer.feed(b':1}\n{"b"') == [(b'{"a":1}', "")]
    assert framer.feed(b":2}") == []
    assert framer.end() == [(b'{"b":2}', "")]
    assert framer.ended is False


@pytest.mark.parametrize("parts", [[b"x" * 11], [b"x" * 6, b"x" * 5], [b"x" * 11 + b"\n"]])
def test_a_line_above_the_limit_is_refused(parts: list[bytes]) -> None:
    with pytest.raises(FramingError, match="larger than 10 bytes"):
        lines(*parts, limit=10)


def test_a_line_of_the_limit_passes() -> None:
    assert lines(b"1234567890\n", limit=10) == [(b"1234567890", "")]


def test_events_have_data_and_a_name() -> None:
    body = b'event: token\ndata: {"t":"a"}\n\ndata:{"t":"b"}\n\n'
    assert events(body) == [(b'{"t":"a"}', "token"), (b'{"t":"b"}', "")]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_of_the_standard_is_understood(end: bytes) -> None:
    body = end.join([b"event: x", b"data: 1", b"", b"data: 2", b"", b""])
    assert events(body) == [(b"1", "x"), (b"2", "")]


def test_a_line_end_may_be_cut_in_two() -> None:
    assert events(b"data: 1\r", b"\n\r", b"\ndata: 2\r\n", b"\r\n") == [(b"1", ""), (b"2", "")]


def test_data_of_several_lines_is_joined() -> None:
    assert events(b'data: {"a":\ndata: 1}\n\n') == [(b'{"a":\n1}', "")]


def test_comments_and_other_fields_carry_nothing() -> None:
    assert events(b": hello\n\nid: 7\nretry: 10\ndata: 1\n\nevent: lonely\n\ndata: 2\n\n") == [
        (b"1", ""),
        (b"2", ""),
    ]


def test_data_that_is_not_json_becomes_a_string() -> None:
    assert events(b'data: say "hi"\n\n') == [(b'"say \\"hi\\""', "")]
    assert events(b"data: NaN\n\n") == [(b'"NaN"', "")]
    assert events(b"data:\n\n") == [(b'""', "")]
    assert events("data: grüß\n\n".encode()) == [('"grüß"'.encode(), "")]
    assert events(b"data: \xff\n\n") == [('"\ufffd"'.encode(), "")]


def test_done_ends_the_body() -> None:
    framer = EventFramer(100)
    assert framer.feed(b"data: 1\n\ndata: [DONE]\n\ndata: 2\n\n") == [(b"1", "")]
    assert framer.ended
    assert framer.feed(b"data: 3\n\n") == []
    assert framer.end() == []


def test_a_byte_order_mark_is_skipped_even_in_pieces() -> None:
    assert events(b"\xef", b"\xbb", b"\xbfdata: 1\n\n") == [(b"1", "")]
    assert events(b"\xef\xbb\xbfdata: 1\n\n") == [(b"1", "")]


def test_the_last_event_needs_no_blank_line() -> None:
    assert events(b"data: 1\n\ndata: 2") == [(b"1", ""), (b"2", "")]


def test_an_event_above_the_limit_is_refused_however_it_is_cut() -> None:
    with pytest.raises(FramingError):
        events(b"data: " + b"x" * 30, limit=10)
    with pytest.raises(FramingError):
        events(*[b"data: xxxx\n"] * 4, limit=10)
    with pytest.raises(FramingError):
        events(b"data: 12345678901\n\n", limit=10)


def test_an_event_of_the_limit_passes() -> None:
    assert events(b"data: 1234567890\n\n", limit=10) == [(b"1234567890", "")]


def test_big_numbers_pass_untouched() -> None:
    digits = b"9" * 5000
    assert events(b"data: " + digits + b"\n\n", limit=10_000) == [(digits, "")]
