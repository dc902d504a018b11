"""The router's reader of HTTP/1.1 answers by itself: any bytes, cut in any way.

Of any bytes each call gets exactly one end, no defect, and, however the network cut them, the same
pieces.
"""

from __future__ import annotations

import json
from typing import Any, Final, cast

from benchmarks.fuzz.choices import Choices
from podbay_inference_router import http1
from podbay_inference_router.answers import Answer, AnswerError
from podbay_inference_router.framing import Piece

__all__ = ["DICTIONARY", "SEEDS", "attempt"]

_LIMIT, _ERROR_LIMIT = 400, 50
_HEAD: Final = b"POST /x HTTP/1.1\r\nContent-Length: "

_JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
SEEDS: Final = tuple(
    b"\x01\x03\x05\x01\x20" + answer
    for answer in (
        _JSON + b'Content-Length: 7\r\n\r\n{"a":1}',
        _JSON + b"Connection: close\r\n\r\n[1, 2]",
        _JSON + _CHUNKED + b"3\r\n[1,\r\n2;x=y\r\n2]\r\n0\r\nX-Trailer: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        + _CHUNKED
        + b"f\r\ndata: 1\r\n\r\ndata\r\n11\r\n: [DONE]\n\ndata: 2\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/jsonl\r\nContent-Length: 5\r\n\r\n1\n2\n3",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
        + _CHUNKED
        + b"2\r\n\xc3\xa9\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + _JSON + b"Content-Length: 1\r\n\r\n1HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 429 No\r\nRetry-After: 3\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nwhat",
        b"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b",
    )
)
DICTIONARY: Final = (
    *(b"HTTP/1.1 ", b"HTTP/1.0 ", b"200 OK", b"100 Continue", b"304 Not Modified", b"503 x"),
    *(b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"0\r\n\r\n", b"5\r\n", b"ffffffffffffffff\r\n", b": "),
    *(b"Content-Length: ", b"Transfer-Encoding: chunked", b"Connection: close", b"Upgrade: h2c"),
    *(b"Content-Type: ", b"application/json", b"text/event-stream", b"application/x-ndjson"),
    *(b"text/plain", b"Content-Encoding: ", b"identity", b"Retry-After: ", b"data: ", b"event: "),
    *(b"[DONE]", b"\xef\xbb\xbf", b"18446744073709551616", b"Keep-Alive: ", b"Trailer: "),
)


class _Transport:
    """A transport that notes whether it is open."""

    def __init__(self) -> None:
        self.open = True

    def write(self, data: bytes) -> None:
        pass

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        pass

    def close(self) -> None:
        self.open = False

    def abort(self) -> None:
        self.open = False

    def is_closing(self) -> bool:
        return not self.open

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


class _Call:
    """A call that reads its answer as the router does, and notes how it went."""

    def __init__(self, *, pieces: bool) -> None:
        self.flight: Any = None
        self.sent = False
        self.answer = Answer(_LIMIT, _ERROR_LIMIT)
        self.pieces: list[Piece] = []
        self.ends: list[str] = []
        self.text = False
        self._wants_pieces = pieces

    def head_lines(self, now: float) -> bytes:
        return b""

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
        self.answer = Answer(_LIMIT, _ERROR_LIMIT)
        self.text = self._wants_pieces and content_type.lower().startswith("text/plain")
        try:
            self.answer.head(
                status,
                content_type,
                encoding,
                retry_after,
                location=location,
                chunked=chunked,
                pieces=self._wants_pieces,
            )
        except AnswerError as error:
            self._break_off(str(error))

    def on_body(self, data: bytes) -> None:
        if self.ends:
            return
        try:
            self.pieces += self.answer.feed(data)
        except AnswerError as error:
            self._break_off(str(error))
        else:
            if self.answer.complete:
                self._break_off("enough")

    def on_end(self, *, closed: bool = False) -> None:
        if self.ends:
            return
        if self.answer.refused:
            self.ends.append(f"refused with {self.answer.status}")
            return
        try:
            self.pieces += self.answer.end(closed=closed)
        except AnswerError as error:
            self.ends.append(str(error))
        else:
            self.ends.append("end")

    def on_json(self, body: bytes) -> None:
        self.on_head(200, "application/json", "", "")
        self.on_body(body)
        self.on_end()

    def on_lost(self, *, answering: bool) -> None:
        self.ends.append("lost")

    def on_bad_answer(self, detail: str) -> None:
        self.ends.append(detail)

    def on_defect(self, incident: str) -> None:
        raise AssertionError(f"a defect while an answer was read: incident {incident}")

    def on_connected(self) -> None:
        raise AssertionError("it was connected from the beginning")

    def on_connect_failed(self, detail: str) -> None:
        raise AssertionError("it was connected from the beginning")

    def on_no_files(self, limit: int | None) -> None:
        raise AssertionError("it was connected from the beginning")

    def outcome(self) -> tuple[str, list[Piece]]:
        """Return how it ended, and the pieces; those of plain text depend on the cuts."""
        pieces = self.pieces
        if self.text:
            pieces = [("".join(str(json.loads(text)) for text, _ in pieces).encode(), "")]
        return self.ends[0], pieces

    def _break_off(self, how: str) -> None:
        self.ends.append(how)
        if self.flight is not None:
            self.flight.abort()


def attempt(data: bytes) -> None:
    """Read an answer out of bytes, whole, again, cut as they say, and byte by byte.

    Raises:
        AssertionError: A call got no end or several, or the cuts made a difference.
    """
    choices = Choices(data)
    pieces = choices.below(2) == 1
    sizes = [choices.below(64) + 1 for _ in range(choices.below(4))]
    text = choices.rest()
    first = _read([text], pieces=pieces)
    for parts in ([text], _cut(text, sizes), [text[at : at + 1] for at in range(len(text))]):
        again = _read(parts, pieces=pieces)
        if not _same(first, again):
            raise AssertionError(f"{first} became {again} in {len(parts)} parts")


def _read(parts: list[bytes], *, pieces: bool) -> tuple[str, list[Piece]]:
    transport, call = _Transport(), _Call(pieces=pieces)
    connection = http1.Connection(lambda _: None, lambda _: None)
    connection.connection_made(cast("Any", transport))
    connection.start(call, _HEAD, b"{}", 0.0)
    for part in parts:
        if not transport.open:
            break
        if part:
            connection.data_received(part)
    connection.connection_lost(None)
    if len(call.ends) != 1:
        raise AssertionError(f"a call has the ends {call.ends}")
    return call.outcome()


def _cut(text: bytes, sizes: list[int]) -> list[bytes]:
    parts = []
    for size in sizes:
        parts.append(text[:size])
        text = text[size:]
    return [*parts, text]


def _same(one: tuple[str, list[Piece]], other: tuple[str, list[Piece]]) -> bool:
    """Say whether two reads agree; of an answer that was broken off less may have been taken."""
    if one[0] != other[0]:
        return False
    if one[0] == "end":
        return one[1] == other[1]
    short, long = sorted((one[1], other[1]), key=len)
    joined = [b"".join(text for text, _ in pieces) for pieces in (short, long)]
    return joined[1].startswith(joined[0])
