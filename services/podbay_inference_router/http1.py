"""One keep-alive HTTP/1.1 connection to a replica, driven by callbacks."""

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Final, NamedTuple, cast

import httptools

from podbay_inference_router.ports import Sendable

__all__ = ["Connection"]

_LOG = logging.getLogger(__name__)

_MAX_HEAD_BYTES: Final = 64 << 10
# Up to this size head and body are joined: one small copy is cheaper than another system call.
_JOIN_BYTES: Final = 64 << 10
_NO_BODY: Final = frozenset({204, 304})
_HEAD_END: Final = b"\r\n\r\n"


class _Head(NamedTuple):
    """What the parser made of a head with a length, after which the connection is kept."""

    status: int
    content_type: str
    encoding: str
    retry_after: str
    location: str
    length: int
    is_json: bool
    """Whether nothing else is to be known of it: a good answer in JSON."""


# Replicas send few different heads, so the parser need not look at each of them again. Bounded for
# those that send a new one each time, as with a date or many lengths.
_heads: dict[bytes, _Head] = {}
_MAX_HEADS: Final = 512


class Connection(asyncio.Protocol):
    """A connection that carries one request after the other.

    Args:
        release: Takes the connection back when it is free for the next request.
        forget: Told when the connection has ended.
    """

    __slots__ = (
        "_body_sized",
        "_call",
        "_chunked",
        "_complete",
        "_content_type",
        "_encoding",
        "_forget",
        "_head_bytes",
        "_head_done",
        "_keep_alive",
        "_length",
        "_location",
        "_parser",
        "_received",
        "_release",
        "_retry_after",
        "_status",
        "_stray",
        "_transport",
        "idle_since",
    )

    def __init__(
        self, release: Callable[["Connection"], None], forget: Callable[["Connection"], None]
    ) -> None:
        self._release = release
        self._forget = forget
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._call: Sendable | None = None
        self._stray = False
        self._received = False
        self.idle_since = 0.0
        self._complete = False
        self._head_done = False
        self._body_sized = False
        self._chunked = False
        self._keep_alive = False
        self._encoding = ""
        self._expect_head()

    @property
    def usable(self) -> bool:
        """Whether a request can be written to it."""
        return self._transport is not None and not self._transport.is_closing()

    def start(self, call: Sendable, head: bytes, body: bytes, now: float) -> None:
        """Write a request.

        Args:
            call: Told how the answer goes.
            head: The request's head up to the value of Content-Length.
            body: The body.
            now: The time on the loop's clock.
        """
        transport = self._transport
        if transport is None:
            raise RuntimeError("a request was given to a connection that is not open")
        self._call = call
        self._received = False
        call.flight = self
        call.sent = True
        lines = call.head_lines(now)
        if len(body) <= _JOIN_BYTES:
            transport.write(b"%b%d\r\n%b\r\n%b" % (head, len(body), lines, body))
        else:
            transport.writelines((b"%b%d\r\n%b\r\n" % (head, len(body), lines), body))

    # What the call says.

    def abort(self) -> None:
        """Close at once: this is what tells a replica to stop."""
        self._call = None
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Stop reading."""
        transport = self._transport
        if transport is not None and not transport.is_closing() and transport.is_reading():
            transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        transport = self._transport
        if transport is not None and not transport.is_closing() and not transport.is_reading():
            transport.resume_reading()

    def close(self) -> None:
        """Close it while it is free."""
        if self._transport is not None:
            self._transport.close()

    # What the transport says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what has come, and end the request where its answer is complete."""
        call = self._call
        if call is None:
            # Nothing was asked, or the one who asked is gone.
            self.abort()
            return
        whole = not self._received
        self._received = True
        if whole and (known := _known(data)) is not None:
            self._take_whole(call, known, data)
            return
        if not self._head_done:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            self._tell_defect(call)
            return
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self._complete and self._call is call:
                # The answer was whole; what follows it is not HTTP.
                self._stray = True
            elif self._call is call:
                self._give_up(call).on_bad_answer("it is not HTTP/1.1")
                return
        if self._call is not call:
            return
        if self._complete:
            if whole and self._keep_alive and not self._stray:
                self._remember(data)
            self._end_answer(call)
        elif not self._head_done and self._head_bytes > _MAX_HEAD_BYTES:
            self._give_up(call).on_bad_answer(f"its head is larger than {_MAX_HEAD_BYTES} bytes")

    def eof_received(self) -> bool:
        """Let the transport close; `connection_lost` tells the call."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """End the request, if there is one: with its answer, where that goes up to the end."""
        self._forget(self)
        call, self._call = self._call, None
        if call is None:
            return
        if error is None and self._head_done and not self._body_sized:
            call.on_end(closed=True)
        else:
            call.on_lost(answering=self._received)

    # What the parser says.

    def on_message_begin(self) -> None:
        """Note an answer that nobody asked for, behind the one that was."""
        if self._complete:
            self._stray = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the few headers that matter."""
        if self._complete:
            return
        match name.lower():
            case b"content-type":
                self._content_type = value.decode("latin-1").strip()
            case b"content-length":
                self._body_sized = True
                self._length = int(value)
            case b"transfer-encoding":
                self._take_codings(value)
            case b"content-encoding":
                if self._encoding in ("", "identity"):
                    self._encoding = value.decode("latin-1").strip()
            case b"retry-after":
                self._retry_after = value.decode("latin-1").strip()
            case b"location":
                self._location = value.decode(errors="replace").strip()

    def on_headers_complete(self) -> None:
        """Tell the call of the answer, unless it is an interim one."""
        if self._complete:
            return
        self._status = status = self._parser.get_status_code()
        if _is_interim(status):
            return
        self._head_done = True
        if status in _NO_BODY:
            self._body_sized = True
        if self._call is not None:
            self._call.on_head(
                status,
                self._content_type,
                self._encoding,
                self._retry_after,
                location=self._location,
                chunked=self._chunked,
            )

    def on_body(self, data: bytes) -> None:
        """Pass a part of the body on."""
        if self._call is not None and not self._complete:
            self._call.on_body(data)

    def on_message_complete(self) -> None:
        """Note the end; the call is told when the parser has returned."""
        if self._complete:
            return
        if _is_interim(self._status):
            self._expect_head()
            return
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()

    def _take_codings(self, value: bytes) -> None:
        """Note how the body is coded on its way: in chunks, and perhaps compressed."""
        for coding in value.decode("latin-1").lower().split(","):
            match coding.strip():
                case "chunked":
                    self._body_sized = self._chunked = True
                case "" | "identity":
                    continue
                case other:
                    self._encoding = other

    def _take_whole(self, call: Sendable, head: _Head, data: bytes) -> None:
        """Take an answer that has come at once, and whose head is known."""
        if head.is_json:
            self._keep_alive = True
            self._free()
            call.on_json(data[-head.length :])
            return
        try:
            call.on_head(
                head.status,
                head.content_type,
                head.encoding,
                head.retry_after,
                location=head.location,
            )
            if self._call is call and head.length:
                call.on_body(data[-head.length :])
        except Exception:  # noqa: BLE001 # as from the parser's callbacks: a defect of ours
            self._tell_defect(call)
        if self._call is call:
            self._keep_alive = True
            self._end_answer(call)

    def _remember(self, data: bytes) -> None:
        """Keep the head of an answer that has come at once, with its length."""
        end = data.find(_HEAD_END) + len(_HEAD_END)
        length = len(data) - end
        if self._chunked or self._length != length or self._status in _NO_BODY:
            return
        if len(_heads) >= _MAX_HEADS:
            _heads.clear()
        _heads[data[:end]] = _Head(
            self._status,
            self._content_type,
            self._encoding,
            self._retry_after,
            self._location,
            length,
            is_json=(self._status == 200 and length > 0)
            and not self._encoding
            and not self._retry_after
            and self._content_type == "application/json",
        )

    def _expect_head(self) -> None:
        self._head_done = False
        self._head_bytes = 0
        self._complete = False
        self._keep_alive = False
        self._body_sized = False
        self._length = -1
        self._chunked = False
        self._status = 0
        self._content_type = ""
        self._encoding = ""
        self._retry_after = ""
        self._location = ""

    def _give_up(self, call: Sendable) -> Sendable:
        """Close without an answer; returns the call, which is to be told."""
        call.flight = None
        self.abort()
        return call

    def _tell_defect(self, call: Sendable) -> None:
        incident = uuid.uuid4().hex
        _LOG.exception("incident %s while an answer was read", incident)
        self._give_up(call).on_defect(incident)

    def _end_answer(self, call: Sendable) -> None:
        self._free()
        call.on_end()

    def _free(self) -> None:
        """Give the connection back, or close it where it cannot be used again."""
        self._call = None
        transport = self._transport
        # Whatever follows an answer, or a request that is not fully written, would be taken for
        # part of the next exchange.
        reusable = (
            transport is not None
            and self._keep_alive
            and not self._stray
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )
        if reusable:
            self._expect_head()
            self.resume()
            self._release(self)
        elif transport is not None:
            transport.abort()


def _is_interim(status: int) -> bool:
    """Whether another head follows this one; what is below is no status at all, and final."""
    return 100 <= status < 200


def _known(data: bytes) -> _Head | None:
    """Return the known head of what came, where what follows it is the whole body."""
    end = data.find(_HEAD_END) + len(_HEAD_END)
    head = _heads.get(data[:end])
    return head if head is not None and len(data) - end == head.length else None
