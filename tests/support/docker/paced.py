"""Calls at a steady rate, and what became of each."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Self

from podbay import PodbayError
from tests.support.eventually import eventually

__all__ = ["PacedCalls"]


class PacedCalls:
    """Begins a call every so often, whether or not those before it have ended.

    Args:
        session: An async session client.
        rate: Calls per second.
        timeout: Seconds that a call may take.
    """

    def __init__(self, session: Any, rate: float = 50.0, timeout: float = 30.0) -> None:
        self._session = session
        self._pause = 1.0 / rate
        self._timeout = timeout
        self._pacer: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self.succeeded = 0
        self.failures: list[PodbayError] = []

    async def __aenter__(self) -> Self:
        self._pacer = asyncio.create_task(self._pace())
        await self.more(10)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pacer is not None:
            self._pacer.cancel()
            await asyncio.gather(self._pacer, return_exceptions=True)
        await asyncio.gather(*self._calls)

    async def more(self, calls: int) -> None:
        """Return after `calls` more have succeeded."""
        target = self.succeeded + calls
        await eventually(
            lambda: self.succeeded >= target,
            f"{calls} more calls succeed; so far {self.reasons()}",
            timeout=60,
        )

    def reasons(self) -> Counter[str]:
        """Return how often which reason came."""
        return Counter(failure.reason for failure in self.failures)

    async def _pace(self) -> None:
        number = 0
        while True:
            task = asyncio.create_task(self._call(number))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
            number += 1
            await asyncio.sleep(self._pause)

    async def _call(self, number: int) -> None:
        try:
            items = await self._session.infer({"number": number}, timeout=self._timeout)
        except PodbayError as error:
            self.failures.append(error)
            return
        assert items == [{"echo": {"number": number}}], items
        self.succeeded += 1
