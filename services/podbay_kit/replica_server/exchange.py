"""One HTTP request and its answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final, Protocol

from podbay.schema.jsontext import loads
from podbay_kit.replica_server.answers import JSON, encode_json

__all__ = ["Exchange", "Peer", "RefusedError", "too_large"]

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: ".encode("ascii")
    for status in HTTPStatus
}
# Up to this size head and body are joined: one small copy is cheaper than another system call.
_JOIN_BYTES: Final = 64 << 10
_CLOSE: Final = b"connection: close\r\n"

Headers = Iterable[tuple[bytes, bytes]]


class RefusedError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: The HTTP status.
        detail: What happened, for whoever sent the request.
        reason: A reason of the project's catalogue, or None.
        headers: Further headers of the answer.
        close: Whether the connection ends with the answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        reason: str | None = None,
        headers: Headers = (),
        close: bool = False,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.reason = reason
        self.headers = tuple(headers)
        self.close = close


class Peer(Protocol):
    """The connection that a request came on."""

    def write(self, data: bytes) -> None:
        """Send bytes; nothing happens where the client has left."""

    def writable(self) -> asyncio.Future[None] | None:
        """Give what to wait for before more is written; None where the client keeps up."""

    def answered(self, exchange: Exchange) -> None:
        """Take note that a request has its whole answer."""


class Exchange:
    """One request and its answer.

    Attributes:
        method: The HTTP method.
        path: The decoded path.
        accept: The values of the header Accept.
        keep_alive: Whether the connection goes on after the answer.
        chunked: Whether the client understands an answer in chunks.
        started: Whether the answer's status was sent: from then on no other can be.
        ended: Whether the whole answer was sent.
    """

    __slots__ = (
        "_body",
        "_in_chunks",
        "_peer",
        "accept",
        "chunked",
        "ended",
        "keep_alive",
        "method",
        "path",
        "started",
    )

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._body = b""
        self._in_chunks = False
        self.method = ""
        self.path = ""
        self.accept: list[bytes] = []
        self.keep_alive = True
        self.chunked = True
        self.started = False
        self.ended = False

    def take_body(self, body: bytes) -> None:
        """Take the whole body of the request."""
        self._body = body

    def read_json(self) -> object:
        """Give the body as JSON.

        Raises:
            RefusedError: If it is not JSON.
        """
        body, self._body = self._body, b""
        try:
            return loads(body)
        except json.JSONDecodeError as error:
            problem = f"{error.msg} at line {error.lineno}, column {error.colno}"
        except UnicodeDecodeError as error:
            problem = f"not {error.encoding.upper()} at byte {error.start}"
        except RecursionError:
            problem = "nested too deeply"
        raise RefusedError(
            400, f"the request's body is not JSON: {problem}", reason="MALFORMED_JSON"
        )

    def start(self, status: int, media_type: str, headers: Headers = ()) -> None:
        """Send the status and the headers of an answer whose length is not known yet."""
        self.started = True
        self._in_chunks = self.chunked
        if not self.chunked:
            self.keep_alive = False  # the end of the answer is that of the connection
        framing = b"transfer-encoding: chunked\r\n" if self.chunked else b""
        self._peer.write(self._head(status, media_type, headers) + framing + b"\r\n")

    async def write(self, chunk: bytes, *, last: bool = False) -> None:
        """Send a part of the body; waits while the client reads too slowly."""
        if self.method == "HEAD":
            chunk = b""
        elif self._in_chunks:
            chunk = b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk else b""
            if last:
                chunk += b"0\r\n\r\n"
        if chunk:
            self._peer.write(chunk)
        if last:
            self.ended = True
            self._peer.answered(self)
        elif (writable := self._peer.writable()) is not None:
            await writable

    def answer(self, status: int, media_type: str, body: bytes, headers: Headers = ()) -> None:
        """Send a whole answer."""
        self.started = self.ended = True
        head = b"%bcontent-length: %d\r\n\r\n" % (
            self._head(status, media_type, headers),
            len(body),
        )
        if self.method == "HEAD":
            body = b""
        if len(body) <= _JOIN_BYTES:
            self._peer.write(head + body)
        else:
            self._peer.write(head)
            self._peer.write(body)
        self._peer.answered(self)

    def refuse(self, error: RefusedError) -> None:
        """Send an error: `{"detail": ..., "reason": ...}`, without `reason` if it has none."""
        document = {"detail": error.detail}
        if error.reason is not None:
            document["reason"] = error.reason
        if error.close:
            self.keep_alive = False
        self.answer(error.status, JSON, encode_json(document), error.headers)

    def _head(self, status: int, media_type: str, headers: Headers) -> bytes:
        return b"%b%b\r\n%b%b" % (
            _STATUS_LINES[status],
            media_type.encode("ascii"),
            b"".join([b"%b: %b\r\n" % header for header in headers]) if headers else b"",
            b"" if self.keep_alive else _CLOSE,
        )


def too_large(limit: int) -> RefusedError:
    """Give the refusal of a body of more bytes than `limit`."""
    return RefusedError(
        413,
        f"the request's body is larger than {limit} bytes, the most this replica takes",
        reason="BODY_TOO_LARGE",
        close=True,
    )
