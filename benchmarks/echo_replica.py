"""The replica that every system of the benchmark stands in front of.

As lean as a Python web server gets, so that the figures show what is in front of it: a keep-alive
HTTP/1.1 server on `asyncio.Protocol` with httptools. `POST /echo` returns its body as JSON;
`/upload` tells how many bytes it has; `/pieces` returns as many server-sent events as the member
`n` of its body says, `/trickle` one of them every `every` seconds; `GET /ready` answers 200. It
serves on `PORT`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import httptools
import uvloop


class EchoProtocol(asyncio.Protocol):
    """One connection. Requests are answered in their order, as soon as they are complete."""

    def __init__(self) -> None:
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._url = b""
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body, url = b"".join(self._body), self._url
        self._body, self._url = [], b""
        if url == b"/pieces":
            self._pieces(json.loads(body)["n"])
        elif url == b"/trickle":
            asked = json.loads(body)
            self._transport.write(_EVENTS_HEAD)
            self._trickle(asked["n"], asked["every"])
        else:
            answer = b'{"ready": true}' if url == b"/ready" else body
            if url == b"/upload":
                answer = b'{"bytes": %d}' % len(body)
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                % len(answer)
                + answer
            )

    def _pieces(self, n: int) -> None:
        self._transport.write(_EVENTS_HEAD)
        for _ in range(n):
            self._transport.write(_EVENT)
        self._transport.write(_EVENTS_END)

    def _trickle(self, left: int, every: float) -> None:
        if self._transport.is_closing():
            return
        if left:
            self._transport.write(_EVENT)
            asyncio.get_running_loop().call_later(every, self._trickle, left - 1, every)
        else:
            self._transport.write(_EVENTS_END)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_EVENTS_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_EVENT = _chunk(b'data: {"text": "piece"}\n\n')
_EVENTS_END = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


async def main() -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    port = int(os.environ.get("PORT", "8000"))
    server = await loop.create_server(EchoProtocol, "127.0.0.1", port)
    print(f"serving on {server.sockets[0].getsockname()[1]}", flush=True)
    await stopped.wait()


if __name__ == "__main__":
    uvloop.run(main())
