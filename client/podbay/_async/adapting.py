"""An adapter for plain streams, over a stream that arrives in an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

__all__ = ["in_thread"]

_END: Any = object()


class _StreamClosedError(BaseException):
    """Unwinds an adapter whose outputs nobody wants any more; no `except Exception` stops it."""


async def in_thread(
    adapter: Callable[[Iterator[Any]], Iterator[Any]], values: AsyncGenerator[Any, None]
) -> AsyncGenerator[Any, None]:
    """Yield what an adapter makes of a stream; the adapter waits for values in a thread.

    It runs only while an output is asked for, and values are taken only when it asks for them.

    Args:
        adapter: From an iterator to an iterator. When this generator is closed while the adapter
            waits for a value, the wait raises, and the adapter is left.
        values: The stream; closed at the end.
    """
    loop = asyncio.get_running_loop()
    source = _Source(values, loop)
    thread = ThreadPoolExecutor(1, "podbay-adapter")
    outputs: Iterator[Any] = iter(())
    try:
        outputs = await loop.run_in_executor(thread, adapter, source)
        while True:
            output = await loop.run_in_executor(thread, next, outputs, _END)
            if output is _END:
                return
            yield output
    finally:
        source.close()
        try:
            # The thread is done with the adapter before the values are closed under it.
            await asyncio.shield(loop.run_in_executor(thread, _close, outputs))
            await values.aclose()
        finally:
            thread.shutdown(wait=False)


def _close(outputs: Any) -> None:
    """Leave an adapter that is a generator, so that it cleans up now and in its thread."""
    if hasattr(outputs, "close"):
        with suppress(_StreamClosedError):
            outputs.close()


class _Source:
    """The values, as an iterator for another thread than the loop's."""

    def __init__(self, values: AsyncGenerator[Any, None], loop: asyncio.AbstractEventLoop) -> None:
        self._values = values
        self._loop = loop
        self._lock = threading.Lock()
        self._closed = False
        self._wait: Future[Any] | None = None

    def __iter__(self) -> _Source:
        return self

    def __next__(self) -> Any:
        with self._lock:
            if self._closed:
                raise _StreamClosedError
            self._wait = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
        try:
            value = self._wait.result()
        except CancelledError:
            raise _StreamClosedError from None
        if value is _END:
            raise StopIteration
        return value

    def close(self) -> None:
        """End the wait for a value, and all further ones."""
        with self._lock:
            self._closed = True
            if self._wait is not None:
                self._wait.cancel()

    async def _next(self) -> Any:
        return await anext(self._values, _END)
