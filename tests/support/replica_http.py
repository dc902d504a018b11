"""A plain HTTP/1.1 client over asyncio streams, which shows an answer as it comes."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _length: int | None = field(default=None, init=False)

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: replica"]
        if body is not None and "Content-Length" not in (headers or {}):
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))
        await self.writer.drain()

    async def head(self) -> Answer:
        raw = await self.reader.readuntil(b"\r\n\r\n")
        status, *lines = raw.decode().split("\r\n")[:-2]
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = headers.get("content-length")
        self._length = None if length is None else int(length)
        return Answer(int(status.split()[1]), headers)

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; b"" is its regular end."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def answer(self) -> Answer:
        answer = await self.head()
        if self._length is not None:
            answer.body = await self.reader.readexactly(self._length)
            return answer
        while chunk := await self.chunk():
            answer.body += chunk
        return answer

    async def post(self, path: str, request: Any, headers: dict[str, str] | None = None) -> Answer:
        await self.send("POST", path, json.dumps(request).encode(), headers)
        return await self.answer()

    def close(self) -> None:
        self.writer.close()


@contextlib.asynccontextmanager
async def connect(port: int) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
