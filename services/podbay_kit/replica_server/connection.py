"""A replica's side of one HTTP/1.1 connection: requests are answered one by one, in their order."""

from __future__ import annotations

import asyncio
import logging
import urllib.parse
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast

import httptools

from podbay_kit.replica_server.exchange import Exchange, RefusedError, too_large

__all__ = ["Connection", "Connections", "Handler"]

# Longer than a router keeps an idle connection, so that it is the router who closes it.
KEEP_ALIVE_SECONDS: Final = 75.0
_MAX_HEAD_BYTES: Final = 64 << 10
_MAX_PATHS: Final = 256
_BAD_REQUEST: Final = RefusedError(400, "the request is not valid HTTP", close=True)
_HEAD_TOO_LARGE: Final = RefusedError(431, "the request's head is too large", close=True)
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

# What targets of requests stand for; few different ones come.
_paths: dict[bytes, str] = {}

Handler = Callable[[Exchange], Coroutine[None, None, None] | None]
"""Answers a request, or gives the work that is left to do for it. It raises nothing."""

_logger = logging.getLogger("podbay.replica")


class _Incoming:
    """A request that is on its way in."""

    __slots__ = ("body", "complete", "continues", "exchange", "refusal", "size")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.body: list[bytes] = []
        self.size = 0
        self.continues = False
        self.complete = False
        self.refusal: RefusedError | None = None


class Connections:
    """The connections of one server that are open, or whose work has not ended.

    Attributes:
        none: Set while there is none.
    """

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self.none = asyncio.Event()
        self.none.set()

    def __len__(self) -> int:
        return len(self._open)

    def all(self) -> list[Connection]:
        """Give those that are open now."""
        return list(self._open)

    def add(self, connection: Connection) -> None:
        """Take one that was opened."""
        self._open.add(connection)
        self.none.clear()

    def discard(self, connection: Connection) -> None:
        """Forget one that was closed."""
        self._open.discard(connection)
        if not self._open:
            self.none.set()


class Connection(asyncio.Protocol):
    """One connection.

    Args:
        handler: Answers requests.
        loop: The event loop.
        connections: Where the connection is while it is open.
        max_body_bytes: The most bytes of a request's body.
    """

    def __init__(
        self,
        handler: Handler,
        loop: asyncio.AbstractEventLoop,
        connections: Connections,
        max_body_bytes: int,
    ) -> None:
        self._handler = handler
        self._loop = loop
        self._connections = connections
        self._max_body_bytes = max_body_bytes
        self._parser: Any = httptools.HttpRequestParser(self)
        # What follows a request after which the connection closes is not looked at; it is no error.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._transport: asyncio.Transport | None = None
        # Those whose answer is due, and the last of them may be on its way in.
        self._queue: deque[_Incoming] = deque()
        self._incoming: _Incoming | None = None
        self._target = b""
        self._accept: list[bytes] = []
        self._length = 0
        self._continues = False
        self._head_bytes = 0
        self._busy = False
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._paused_writing = False
        self._paused_reading = False
        self._idle_since = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """Take no further request; close at once where none is being answered."""
        self._stopping = True
        if self._queue:
            self._queue[0].exchange.keep_alive = False
        elif self._incoming is None:
            self._close()

    def end(self, refusal: RefusedError) -> None:
        """End what is left: work is cancelled, and what is on its way in is refused."""
        if self._task is not None:
            self._task.cancel()
            return
        if self._queue:
            self._queue[0].exchange.refuse(refusal)
        self._close()

    def abort(self) -> None:
        """Close at once, whatever is not sent yet."""
        if self._transport is not None:
            self._transport.abort()

    # What an exchange says.

    def write(self, data: bytes) -> None:
        """Send bytes; nothing happens where the client has left."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def writable(self) -> asyncio.Future[None] | None:
        """Give what to wait for before more is written; None where the client keeps up."""
        if not self._paused_writing:
            return None
        if self._drained is None:
            self._drained = self._loop.create_future()
        return self._drained

    def answered(self, exchange: Exchange) -> None:
        """Go on to the next request, or close where there shall be none."""
        self._busy = False
        if self._queue and self._queue[0].exchange is exchange:
            self._queue.popleft()
        if not exchange.keep_alive or self._stopping:
            self._close()
        elif not self._queue:
            self._idle_since = self._loop.time()

    # What the transport says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)
        self._idle_since = self._loop.time()
        self._idle_timer = self._loop.call_later(KEEP_ALIVE_SECONDS, self._look_idle)

    def connection_lost(self, _error: Exception | None) -> None:
        """Cancel the work for a client that has left."""
        self._transport = None
        self._queue.clear()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self._task is not None:
            self._task.cancel()
        else:
            self._connections.discard(self)
        self.resume_writing()

    def pause_writing(self) -> None:
        """Let whoever writes wait."""
        self._paused_writing = True

    def resume_writing(self) -> None:
        """Let whoever writes go on."""
        self._paused_writing = False
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Parse what has come, and begin what is complete."""
        if self._incoming is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Nothing else is spoken here: the request is answered, and what follows is not read.
            if self._queue:
                self._queue[-1].exchange.keep_alive = False
        except httptools.HttpParserCallbackError:
            _logger.exception("a request was not read because of a defect")
            self._close()
            return
        except httptools.HttpParserError:
            self._advance()  # those before it have their answers first, where they can
            self._break_off(_BAD_REQUEST)
            return
        if self._head_bytes > _MAX_HEAD_BYTES and self._incoming is None:
            self._break_off(_HEAD_TOO_LARGE)
            return
        self._advance()

    # What the parser says.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._target = b""
        self._length = 0
        self._accept = []
        self._continues = False

    def on_url(self, part: bytes) -> None:
        """Take a part of the target."""
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the few headers that matter."""
        match len(name):
            case 6:
                name = name.lower()
                if name == b"accept":
                    self._accept.append(value)
                elif name == b"expect":
                    self._continues = value.lower() == b"100-continue"
            case 14 if name.lower() == b"content-length":
                self._length = int(value)

    def on_headers_complete(self) -> None:
        """Take a request's head."""
        parser = self._parser
        exchange = Exchange(self)
        exchange.method = parser.get_method().decode("ascii")
        exchange.accept = self._accept
        exchange.chunked = parser.get_http_version() != "1.0"
        exchange.keep_alive = exchange.chunked and parser.should_keep_alive()
        incoming = self._incoming = _Incoming(exchange)
        incoming.continues = self._continues and exchange.chunked
        self._head_bytes = 0
        if self._length > 2 * self._max_body_bytes:
            incoming.refusal = too_large(self._max_body_bytes)
        try:
            exchange.path = _paths.get(self._target) or _keep_path(self._target)
        except ValueError:
            incoming.refusal = RefusedError(400, "the request's target is no path", close=True)
        self._queue.append(incoming)

    def on_body(self, part: bytes) -> None:
        """Take a part of the body, up to the limit."""
        incoming = self._incoming
        if incoming is None:
            return
        incoming.size += len(part)
        if incoming.size <= self._max_body_bytes:
            incoming.body.append(part)
            return
        # A client that still writes does not see an answer, so as much again is read and dropped,
        # but not without end.
        incoming.body.clear()
        if incoming.size > 2 * self._max_body_bytes:
            incoming.refusal = too_large(self._max_body_bytes)

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.complete = True
            if incoming.size > self._max_body_bytes:
                incoming.refusal = too_large(self._max_body_bytes)
            body = incoming.body
            incoming.exchange.take_body(body[0] if len(body) == 1 else b"".join(body))

    # The inside.

    def _advance(self) -> None:
        """Begin the next request where none is being answered and it is complete."""
        queue = self._queue
        while queue and not self._busy and self._task is None:
            incoming = queue[0]
            exchange = incoming.exchange
            if incoming.refusal is not None:
                self._busy = True
                exchange.refuse(incoming.refusal)
                return
            if not incoming.complete:
                if incoming.continues:
                    incoming.continues = False
                    self.write(_CONTINUE)
                return
            self._busy = True
            if self._stopping:
                exchange.keep_alive = False
            work = self._handler(exchange)
            if work is not None:
                self._task = self._loop.create_task(work)
                self._task.add_done_callback(self._worked)
        # Who sends many requests at once waits with further ones.
        if (len(queue) > 1) is not self._paused_reading:
            self._paused_reading = not self._paused_reading
            transport = self._transport
            if transport is not None and not transport.is_closing():
                if self._paused_reading:
                    transport.pause_reading()
                else:
                    transport.resume_reading()

    def _worked(self, task: asyncio.Task[None]) -> None:
        """Go on when the work for a request is done."""
        self._task = None
        if self._transport is None:
            self._connections.discard(self)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("a request was not answered because of a defect", exc_info=error)
        if self._queue and self._busy:
            # An answer without its end is what tells the client, so it is left there.
            self._close()
        else:
            self._advance()

    def _break_off(self, refusal: RefusedError) -> None:
        """Close because of what the client sent, and say so where no answer is under way."""
        if not self._queue:
            Exchange(self).refuse(refusal)
        self._close()

    def _close(self) -> None:
        self._queue.clear()
        if self._transport is not None:
            self._transport.close()

    def _look_idle(self) -> None:
        """Close what has been idle for too long; look again when it could be."""
        left = KEEP_ALIVE_SECONDS
        if not self._queue and self._incoming is None:
            left += self._idle_since - self._loop.time()
            if left <= 0:
                self._close()
                return
        self._idle_timer = self._loop.call_later(left, self._look_idle)


def _keep_path(target: bytes) -> str:
    try:
        path = (httptools.parse_url(target).path or b"").decode("ascii")
    except httptools.HttpParserInvalidURLError as error:
        raise ValueError("no target of a request") from error
    if "%" in path:
        path = urllib.parse.unquote(path)
    if len(_paths) >= _MAX_PATHS:
        _paths.clear()
    _paths[target] = path
    return path
