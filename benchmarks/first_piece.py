"""How much later the first piece of a streamed answer is there, with Podbay in between.

`python -m benchmarks.first_piece` prints the medians. Both ways are used in turn by one program.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from typing import NamedTuple

import uvloop

from benchmarks.installation import ECHO_REPLICA, installation, session
from podbay import AsyncClient, Client

__all__ = ["FirstPiece", "measure"]

_PIECES = 50
_WARM_UP = 50
_END = b"0\r\n\r\n"


class FirstPiece(NamedTuple):
    """Median seconds from the request to the first piece."""

    direct: float
    podbay: float


class _Direct:
    """A keep-alive connection to the replica, read as it comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def seconds(self, body: bytes) -> float:
        began = time.perf_counter()
        self._writer.write(
            b"POST /pieces HTTP/1.1\r\nhost: replica\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        await self._reader.readuntil(b"data: ")
        found = time.perf_counter() - began
        await self._reader.readuntil(_END)
        return found

    def close(self) -> None:
        self._writer.close()


async def _measure(replica: str, session_id: str, token: str, calls: int) -> FirstPiece:
    host, _, port = replica.rpartition(":")
    body = {"n": _PIECES}
    direct, podbay = list[float](), list[float]()
    connection = _Direct(*await asyncio.open_connection(host, int(port)))
    async with AsyncClient() as client:
        made = client.inferencesessions.client(session_id, token, endpoint="pieces")
        async with made as session_client:
            for number in range(_WARM_UP + calls):
                without = await connection.seconds(json.dumps(body).encode())
                began, first = time.perf_counter(), 0.0
                async for _ in session_client.stream(body):
                    first = first or time.perf_counter() - began
                if number >= _WARM_UP:
                    direct.append(without)
                    podbay.append(first)
    connection.close()
    return FirstPiece(statistics.median(direct), statistics.median(podbay))


def measure(calls: int = 500) -> FirstPiece:
    """Make calls, one at a time, and return the medians of both ways.

    Args:
        calls: How many of each.
    """
    with installation(), Client() as client:
        session_id, token, replica = session(client, ECHO_REPLICA, "pieces")
        return uvloop.run(_measure(replica.address, session_id, token, calls))


if __name__ == "__main__":
    result = measure()
    print(f"direct {result.direct * 1e3:.3f} ms, Podbay {result.podbay * 1e3:.3f} ms")
