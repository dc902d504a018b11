"""Thousands of streamed calls at once: what one costs in memory, and whether any is lost.

`python -m benchmarks.streams` runs 5,000 calls that each bring a piece a second for a minute, looks
at the router's memory meanwhile, and prints what it was.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
from typing import NamedTuple

import psutil
import uvloop

from benchmarks.installation import ECHO_REPLICA, installation, processes, session
from podbay import AsyncClient, Client
from podbay.errors import PodbayError

__all__ = ["Streams", "measure"]

_CALLS_A_CLIENT = 1000  # what one Exchange stream carries
_REPLICAS = 2  # a router worker has up to 4,096 connections to one
_FILES = 16384


class Streams(NamedTuple):
    """What a run gave.

    Attributes:
        calls: How many calls there were.
        lost: How many of them failed, or brought too few pieces.
        before: The router's memory in bytes before them.
        first: Its memory when all of them ran.
        last: The most that it was from then to their end.
    """

    calls: int
    lost: int
    before: int
    first: int
    last: int

    @property
    def per_call(self) -> float:
        """Bytes a call, at the most."""
        return (max(self.first, self.last) - self.before) / self.calls

    @property
    def growth(self) -> float:
        """By which part the memory of the calls grew while they ran; 0 where it is flat."""
        return (self.last - self.first) / (self.first - self.before)


async def _run(
    session_id: str, token: str, router: list[psutil.Process], calls: int, seconds: int
) -> Streams:
    started = 0
    all_started = asyncio.Event()

    async def call(session_client: object) -> bool:
        nonlocal started
        count = 0
        try:
            body = {"n": seconds, "every": 1.0}
            async for _ in session_client.stream(body):  # type: ignore[attr-defined] # typed by podbay
                count += 1
                if count == 1:
                    started += 1
                    if started == calls:
                        all_started.set()
        except PodbayError as error:
            print(f"a call failed: {error}", file=sys.stderr)
        return count == seconds

    async with AsyncClient() as client:
        makers = [
            client.inferencesessions.client(
                session_id, token, endpoint="trickle", timeout=2 * seconds + 60
            )
            for _ in range(-(-calls // _CALLS_A_CLIENT))
        ]
        before = _memory(router)
        tasks = [asyncio.create_task(call(makers[at // _CALLS_A_CLIENT])) for at in range(calls)]
        try:
            async with asyncio.timeout(60 + seconds):
                await all_started.wait()
            first = last = _memory(router)
            while not all(task.done() for task in tasks):
                await asyncio.wait(tasks, timeout=1.0)
                last = max(last, _memory(router))
        finally:
            for task in tasks:
                task.cancel()
            came = await asyncio.gather(*tasks, return_exceptions=True)
            for maker in makers:
                await maker.close()
    return Streams(calls, sum(one is not True for one in came), before, first, last)


def _memory(processes: list[psutil.Process]) -> int:
    return sum(process.memory_info().rss for process in processes)


def measure(calls: int = 5000, seconds: int = 60) -> Streams:
    """Run calls through one router worker.

    Args:
        calls: How many at once.
        seconds: How long each of them takes.
    """
    # Each call is a connection of the router, which has it from us.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, most), most))
    with installation() as up, Client() as client:
        session_id, token, _ = session(client, ECHO_REPLICA, "trickle", _REPLICAS)
        router = processes(up, "podbay_inference_router")
        return uvloop.run(_run(session_id, token, router, calls, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--calls", type=int, default=5000, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=60, help="(default: %(default)s)")
    arguments = parser.parse_args()
    found = measure(arguments.calls, arguments.seconds)
    print(
        f"{found.calls} calls, {found.lost} lost; the router's memory: "
        f"{found.before / 1e6:.1f} MB before, {found.first / 1e6:.1f} MB with all of them, at most "
        f"{found.last / 1e6:.1f} MB up to their end; {found.per_call / 1e3:.1f} KB a call"
    )
    sys.exit(bool(found.lost))


if __name__ == "__main__":
    main()
