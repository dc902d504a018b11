"""One HTTP/1.1 connection, byte by byte."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from podbay_inference_router import http1
from podbay_inference_router.http1 import Connection
from podbay_inference_router.ports import Flight

HEAD = b"POST /x HTTP/1.1\r\nContent-Length: "
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class FakeTransport:
    """Records what is done to it."""

    def __init__(self) -> None:
        self.written = b""
        self.state = "open"
        self.reading = True
        self.unwritten = 0

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self.written += b"".join(parts)

    def close(self) -> None:
        self.state = "closed"

    def abort(self) -> None:
        self.state = "aborted"

    def is_closing(self) -> bool:
        return self.state != "open"

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self.unwritten


class Recorder:
    """A call that notes what it is told."""

    def __init__(self) -> None:
        self.flight: Flight | None = None
        self.sent = False
        self.told: list[Any] = []
        self.fail_on_body = False
        self.chunked = False
        self.location = ""

    def head_lines(self, now: float) -> bytes:
        return b"Podbay-Timeout-Ms: %d\r\n" % (now * 1000)

    def on_connected(self) -> None:
        self.told.append("connected")

    def on_connect_failed(self, detail: str) -> None:
        self.told.append(detail)

    def on_no_files(self, limit: int | None) -> None:
        self.told.append(("no files", limit))

    def on_head(
        self,
        status: int,
        content_type: str,
        encoding: str,
        retry_after: str,
        *,
        location: str = "",
        chunked: bool = False,
    ) -> None:
        self.told.append((status, content_type, encoding, retry_after))
        self.location = location
        self.chunked = chunked

    def on_body(self, data: bytes) -> None:
        if self.fail_on_body:
            raise KeyError("secret")
        self.told.append(data)

    def on_end(self, *, closed: bool = False) -> None:
        self.told.append("end with the connection" if closed else "end")

    def on_json(self, body: bytes) -> None:
        self.told += [(200, "application/json", "", ""), body, "end"]

    def on_lost(self, *, answering: bool) -> None:
        self.told.append(f"lost answering={answering}")

    def on_bad_answer(self, detail: str) -> None:
        self.told.append(f"bad: {detail}")

    def on_defect(self, incident: str) -> None:
        self.told.append("defect")


class Wire:
    """A connection with its transport and what became of it."""

    def __init__(self) -> None:
        self.released: list[Connection] = []
        self.forgotten = 0
        self.transport = FakeTransport()
        self.connection = Connection(self.released.append, self._forget)
        self.connection.connection_made(cast("asyncio.BaseTransport", self.transport))

    @classmethod
    def answered(cls, answer: bytes) -> None:
        """Let an answer come once, so that its head is known."""
        wire = cls()
        wire.start()
        wire.feed(answer)

    def _forget(self, _: Connection) -> None:
        self.forgotten += 1

    def start(self, body: bytes = b"{}") -> Recorder:
        call = Recorder()
        self.connection.start(call, HEAD, body, 5.0)
        return call

    def feed(self, *parts: bytes) -> None:
        for part in parts:
            self.connection.data_received(part)


def test_a_request_is_written_at_once() -> None:
    wire = Wire()
    call = wire.start(b'{"a":1}')
    lines = b"Podbay-Timeout-Ms: 5000\r\n"
    assert wire.transport.written == HEAD + b"7\r\n" + lines + b'\r\n{"a":1}'
    assert call.sent
    assert call.flight is wire.connection
    big = Wire()
    big.start(b"x" * 100_000)
    assert big.transport.written == HEAD + b"100000\r\n" + lines + b"\r\n" + b"x" * 100_000


def test_an_answer_of_known_length() -> None:
    wire = Wire()
    call = wire.start()
    wire.feed(OK + b"Content-Length: 4\r\n\r\n12", b"34")
    assert call.told == [(200, "application/json", "", ""), b"12", b"34", "end"]
    assert wire.released == [wire.connection]
    assert wire.transport.state == "open"


def test_an_answer_byte_by_byte() -> None:
    wire = Wire()
    call = wire.start()
    answer = OK + b"Retry-After: 5\r\nContent-Encoding: x\r\nContent-Length: 2\r\n\r\nab"
    wire.feed(*[answer[i : i + 1] for i in range(len(answer))])
    assert call.told == [(200, "application/json", "x", "5"), b"a", b"b", "end"]


def test_a_chunked_answer() -> None:
    wire = Wire()
    call = wire.start()
    wire.feed(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\nab\r\n", b"1\r\nc\r\n0\r\n\r\n")
    assert call.told[1:] == [b"ab", b"c", "end"]
    assert wire.released


def test_two_requests_follow_each_other() -> None:
    wire = Wire()
    for status in (200, 500):
        call = wire.start()
        wire.feed(b"HTTP/1.1 %d X\r\nContent-Length: 1\r\n\r\nx" % status)
        assert call.told == [(status, "", "", ""), b"x", "end"]
    assert len(wire.released) == 2


def test_a_connection_that_shall_close_is_not_used_again() -> None:
    wire = Wire()
    call = wire.start()
    wire.feed(OK + b"Connection: close\r\nContent-Length: 1\r\n\r\nx")
    assert call.told[-1] == "end"
    assert not wire.released
    assert wire.transport.state == "aborted"


def test_an_answer_may_end_with_the_connection() -> None:
    wire = Wire()
    call = wire.start()
    wire.feed(OK + b"\r\nab")
    assert call.told[-1] == b"ab"
    wire.connection.connection_lost(None)
    assert call.told[-1] == "end with the connection"
    assert wire.forgotten == 1


@pytest.mark.parametrize(
    ("coding", "encoding"),
    [
        (b"gzip, chunked", "gzip"),
        (b"gzip,chunked\r\nContent-Encoding: identity", "gzip"),
        (b"Chunked", ""),
        (b"chunked\r\nContent-Encoding: identity\r\nContent-Encoding: br", "br"),
    ],
)
def test_a_body_that_is_compressed_on_its_way_is_told(coding: bytes, encoding: str) -> None:
    wire = Wire()
    call = wire.start()
    wire.feed(OK + b"Transfer-Encoding: " + coding + b"\r\n\r\n2\r\nab\r\n0\r\n\r\n")
    assert call.told == [(200, "application/json", encoding, ""), b"ab", "end"]


def test_a_body_that_is_not_coded_on_its_way_ends_with_the_connection() -> None:
    wire = Wire()
    call = wire.start()
    wire.feed(OK + b"Transfer-Encoding: identity\r\n\r\n{}")
    wire.connection.connection_lost(None)
    assert call.told[-1] == "end with the connection"


def test_a_status_below_all_others_is_final() -> None:
    wire = Wire()
    call = wire.start()
    wire.feed(b"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n")
    assert call.told == [(99, "", "", ""), "end"]


def test_an_answer_that_ends_with_a_broken_connection_is_lost() -> None:
    wire = Wire()
    call = wire.start()
    wire.feed(OK + b"\r\nab")
    wire.connection.connection_lost(ConnectionResetError())
    assert call.told[-1] == "lost answering=True"


@pytest.mark.parametrize(
    "head", [b"Content-Length: 4\r\n\r\n12", b"Transfer-Encoding: chunked\r\n\r\n"]
)
def test_an_answer_that_ends_too_early_is_lost(head: bytes) -> None:
    wire = Wire()
    call = wire.start()
    wire.feed(OK + head)
    wire.connection.connection_lost(None)
    assert call.told[-1] == "lost answering=True"


def test_a_connection_that_ends_before_the_answer_is_lost() -> None:
    wire = Wire()
    call = wire.start()
    assert wire.connection.eof_received() is False
    wire.connection.connection_lost(None)
    assert call.told == ["lost answering=False"]


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body(status: int) -> None:
    wire = Wire()
    call = wire.start()
    wire.feed(b"HTTP/1.1 %d X\r\n\r\n" % status)
    assert call.told == [(status, "", "", ""), "end"]
    assert wire.released


def test_interim_answers_are_skipped() -> None:
    wire = Wire()
    call = wire.start()
    wire.feed(
        b"HTTP/1.1 100 Continue\r\nContent-Type: x\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n",
        OK + b"Content-Length: 1\r\n\r\nx",
    )
    assert call.told == [(200, "application/json", "", ""), b"x", "end"]


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_bad_answer(answer: bytes) -> None:
    wire = Wire()
    call = wire.start()
    wire.feed(answer)
    assert call.told[-1] == "bad: it is not HTTP/1.1"
    assert wire.transport.state == "aborted"
    assert not wire.released


def test_a_head_without_an_end_is_a_bad_answer() -> None:
    wire = Wire()
    call = wire.start()
    wire.feed(b"HTTP/1.1 200 OK\r\n", *[b"X: " + b"y" * 10_000 + b"\r\n"] * 7)
    assert "head is larger" in call.told[-1]
    assert wire.transport.state == "aborted"


@pytest.mark.parametrize("stray", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP", b"garbage", b"\x00"])
def test_what_follows_an_answer_is_not_taken_for_the_next_one(stray: bytes) -> None:
    wire = Wire()
    call = wire.start()
    wire.feed(OK + b"Content-Length: 1\r\n\r\nx" + stray)
    assert call.told == [(200, "application/json", "", ""), b"x", "end"]
    assert not wire.released
    assert wire.transport.state == "aborted"


def test_what_comes_unasked_closes_the_connection() -> None:
    wire = Wire()
    wire.feed(b"HTTP/1.1 408 Timeout\r\n\r\n")
    assert wire.transport.state == "aborted"


def test_an_early_answer_to_a_large_request_does_not_free_the_connection() -> None:
    wire = Wire()
    call = wire.start(b"x" * 100_000)
    wire.transport.unwritten = 50_000
    wire.feed(b"HTTP/1.1 413 Too large\r\nContent-Length: 0\r\n\r\n")
    assert call.told[-1] == "end"
    assert not wire.released


def test_an_abort_closes_at_once_and_is_the_last_that_is_heard() -> None:
    wire = Wire()
    call = wire.start()
    wire.connection.abort()
    assert wire.transport.state == "aborted"
    wire.feed(OK + b"Content-Length: 1\r\n\r\nx")
    wire.connection.connection_lost(None)
    assert call.told == []


def test_reading_can_pause_and_goes_on_with_the_next_request() -> None:
    wire = Wire()
    wire.start()
    wire.connection.pause()
    assert not wire.transport.reading
    wire.connection.resume()
    assert wire.transport.reading
    wire.connection.pause()
    wire.feed(OK + b"Content-Length: 1\r\n\r\nx")
    assert wire.transport.reading


def test_a_defect_ends_the_call_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    http1._heads.clear()
    wire = Wire()
    call = wire.start()
    call.fail_on_body = True
    wire.feed(OK + b"Content-Length: 1\r\n\r\nx")
    assert call.told[-1] == "defect"
    assert wire.transport.state == "aborted"
    assert "incident" in caplog.text


def test_a_defect_with_a_known_head_ends_the_call_as_well(caplog: pytest.LogCaptureFixture) -> None:
    refusal = b"HTTP/1.1 500 No\r\nContent-Length: 1\r\n\r\nx"
    Wire.answered(refusal)
    wire = Wire()
    call = wire.start()
    call.fail_on_body = True
    wire.feed(refusal)
    assert call.told[-1] == "defect"
    assert wire.transport.state == "aborted"
    assert "incident" in caplog.text


_LINES = st.sampled_from(
    [
        b"Content-Type: application/json\r\n",
        b"content-type: application/json; charset=utf-8\r\n",
        b"Content-Type: text/plain\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Retry-After: 3\r\n",
        b"Date: now\r\n",
        b"Content-Length: 2\r\n",
        b"Content-Length: 0\r\n",
        b"Content-Length: 7\r\n",
    ]
)
_STATUS_LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 204 No\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 503 No\r\n",
        b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK\r\n",
        b"HTTP/2 200\r\n",
    ]
)
_BODIES = st.sampled_from(
    [b"", b"{}", b"{}x", b"\r\n\r\n{}x", b"2\r\n{}\r\n0\r\n\r\n", b"\r\n\r\n"]
)


@example(
    answers=[
        (
            b"HTTP/1.1 200 OK\r\n",
            [
                b"Content-Type: application/json\r\n",
                b"Retry-After: 3\r\n",
                b"Content-Length: 2\r\n",
            ],
            b"{}",
        )
    ],
    cut=0,
)
@given(
    answers=st.lists(
        st.tuples(_STATUS_LINES, st.lists(_LINES, max_size=4), _BODIES), min_size=1, max_size=4
    ),
    cut=st.integers(0, 60),
)
def test_what_is_known_of_a_head_changes_nothing(
    answers: list[tuple[bytes, list[bytes], bytes]], cut: int
) -> None:
    """An answer that comes at once is told as the parser tells it, whatever came before."""
    texts = [status + b"".join(lines) + b"\r\n" + body for status, lines, body in answers]
    for text in [*texts, *texts]:
        parsed, known, in_two = Wire(), Wire(), Wire()
        expected = known.start(), parsed.start(), in_two.start()
        with_known = dict(http1._heads)
        known.feed(text)
        http1._heads.clear()
        parsed.feed(text)
        http1._heads.update(with_known)
        in_two.feed(text[:cut], text[cut:])
        assert expected[0].told == expected[1].told
        assert known.transport.state == parsed.transport.state
        assert len(known.released) == len(parsed.released)
        assert b"".join(_bodies(expected[0])) == b"".join(_bodies(expected[2]))
        if known.released:
            # The next answer on the same connection is told as well.
            following = known.start()
            known.feed(OK + b"Content-Length: 3\r\n\r\n123")
            assert following.told == [(200, "application/json", "", ""), b"123", "end"]


def _bodies(call: Recorder) -> list[bytes]:
    return [item for item in call.told if isinstance(item, bytes)]


@pytest.mark.parametrize("known", [False, True])
def test_where_a_redirect_leads_is_told_and_forgotten(known: bool) -> None:
    redirect = (
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://r:8000/a/?x=%C3%BC \r\n"
        b"Content-Length: 5\r\n\r\nmoved"
    )
    if known:
        Wire.answered(redirect)
    wire = Wire()
    call = wire.start()
    wire.feed(redirect)
    assert call.told[0][0] == 307
    assert call.location == "http://r:8000/a/?x=%C3%BC"
    after = wire.start()
    wire.feed(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")
    assert after.told == [(404, "", "", ""), b"no", "end"]
    assert after.location == ""
