"""The router's own HTTP client beside aiohttp's: why there is one (docs/decisions/0007).

`python -m benchmarks.hop ADDRESS IN_FLIGHT REQUESTS` prints the seconds that the requests took
with the router's client; `rates` runs both, each in a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import uvloop

from benchmarks.environments import environment
from podbay_inference_router.ports import Flight
from podbay_inference_router.settings import Settings
from podbay_inference_router.upstream import ConnectionPools, Pool

__all__ = ["AIOHTTP_VERSION", "rates"]

AIOHTTP_VERSION = "3.14.5"
_BODY = b'{"text": "Open the pod bay doors, Hal!"}'


def _give_up(why: str) -> None:
    """End at once: a figure with failed requests in it is none."""
    sys.stderr.write(f"a request failed: {why}\n")
    sys.stderr.flush()
    os._exit(1)


class _Caller:
    """Sends one request after another, as a call of the router does."""

    def __init__(self, pool: Pool, left: list[int], done: asyncio.Event) -> None:
        self.flight: Flight | None = None
        self.sent = False
        self._pool, self._left, self._done = pool, left, done

    def next(self) -> None:
        if self._left[0] > 0:
            self._left[0] -= 1
            self._pool.send(self, "/echo", "application/json", _BODY)
        elif self._left[1] == 1:
            self._done.set()
        else:
            self._left[1] -= 1

    def head_lines(self, now: float) -> bytes:
        return b""

    def on_connected(self) -> None:
        pass

    def on_connect_failed(self, detail: str) -> None:
        _give_up(detail)

    def on_no_files(self, limit: int | None) -> None:
        _give_up("no files")

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
        if status != 200:
            _give_up(f"status {status}")

    def on_body(self, data: bytes) -> None:
        pass

    def on_end(self, *, closed: bool = False) -> None:
        self.next()

    def on_json(self, body: bytes) -> None:
        self.next()

    def on_lost(self, *, answering: bool) -> None:
        _give_up(f"the connection was lost, answering: {answering}")

    def on_bad_answer(self, detail: str) -> None:
        _give_up(detail)

    def on_defect(self, incident: str) -> None:
        _give_up(incident)


async def _own(address: str, in_flight: int, requests: int) -> float:
    host, _, port = address.rpartition(":")
    pools = ConnectionPools(Settings(), asyncio.get_running_loop())
    pool, done, left = pools.connect(host, int(port)), asyncio.Event(), [requests, in_flight]
    started = time.perf_counter()
    for _ in range(in_flight):
        _Caller(pool, left, done).next()
    async with asyncio.timeout(120):
        await done.wait()
    seconds = time.perf_counter() - started
    await pools.close()
    return seconds


def rates(address: str, in_flight: int, requests: int, rounds: int) -> tuple[float, float]:
    """Return the medians of requests per second: the router's client, and aiohttp's."""
    arguments = [address, str(in_flight), str(requests)]
    commands = (
        [sys.executable, "-m", "benchmarks.hop", *arguments],
        [
            str(environment("aiohttp", [f"aiohttp=={AIOHTTP_VERSION}", "uvloop"])),
            str(Path(__file__).with_name("hop_aiohttp.py")),
            *arguments,
        ],
    )
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for command, into in zip(commands, found, strict=True):
            result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            into.append(requests / float(result.stdout))
    return statistics.median(found[0]), statistics.median(found[1])


if __name__ == "__main__":
    print(uvloop.run(_own(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
