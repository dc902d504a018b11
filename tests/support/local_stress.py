"""Many calls at once, by blocking clients in threads and an asynchronous one, beside a platform.

`python -m tests.support.local_stress FOLDER CALLS` prints how many calls had the right answer.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from typing import Any

from podbay import AsyncClient, Client
from podbay.local import LocalPlatform, mocks

IN_FLIGHT = 64
THREADS = 2


class Mine(mocks.Echo):
    """Runs in this process: its class is one of the main module."""


class Load:
    """The calls of one session, from two kinds of clients at once."""

    def __init__(self, platform: LocalPlatform, mock_type: type) -> None:
        self._service = platform.inferenceservices.create_mock(mock_type)
        made = platform.inferencesessions.create(
            {"account": platform.account, "inferenceService": self._service.id}
        )
        self._session = made.inferencesession.id, made.token
        platform.inferencesessions.wait_ready(self._session[0], timeout=60)
        self.right = 0
        self._lock = threading.Lock()

    def blocking(self, client: Client, calls: int) -> None:
        """Most calls many at once, every tenth by itself."""
        with client.inferencesessions.client(
            *self._session, interface=self._service.interface
        ) as session:
            for result in session.infer_many(_bodies(calls * 9 // 10), max_in_flight=IN_FLIGHT):
                self._took(result.index, result.items)
            for number in range(calls - calls * 9 // 10):
                self._took(number, session.infer({"number": number}))

    async def asynchronous(self, client: AsyncClient, calls: int) -> None:
        """The same, in an event loop."""
        async with client.inferencesessions.client(
            *self._session, interface=self._service.interface
        ) as session:
            bodies = _bodies(calls * 9 // 10)
            async for result in session.infer_many(bodies, max_in_flight=IN_FLIGHT):
                self._took(result.index, result.items)
            for number in range(calls - calls * 9 // 10):
                self._took(number, await session.infer({"number": number}))

    def _took(self, number: int, items: Any) -> None:
        with self._lock:
            self.right += items == [{"number": number}]


def _bodies(count: int) -> Iterator[dict[str, int]]:
    return ({"number": number} for number in range(count))


async def _main(platform: LocalPlatform, loads: list[Load], calls: int) -> None:
    share = calls // len(loads) // (THREADS + 1)
    threads = [
        threading.Thread(target=load.blocking, args=(platform, share))
        for load in loads
        for _ in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    async with platform.async_client() as client:
        await asyncio.gather(*(load.asynchronous(client, share) for load in loads))
    for thread in threads:
        await asyncio.to_thread(thread.join)


if __name__ == "__main__":
    with LocalPlatform(sys.argv[1]) as local:
        sessions = [Load(local, mocks.Echo), Load(local, Mine)]
        asyncio.run(_main(local, sessions, int(sys.argv[2])))
        print(sum(load.right for load in sessions))
