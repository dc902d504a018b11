"""One way to use both faces of the client, so that one suite covers both."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

from podbay import AsyncClient, Client
from tests.support.eventually import eventually_sync

__all__ = ["AsyncFace", "SyncFace"]


class SyncFace:
    """The synchronous client, as it is."""

    name = "sync"

    def client(self, endpoint: str, token: str = "api-token", **options: Any) -> Any:
        """Return a client."""
        return Client(endpoint, token, **options)

    def close(self) -> None:
        """Nothing is to be done."""


class AsyncFace:
    """The asynchronous client, driven by a loop in a thread of its own."""

    name = "async"

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def client(self, endpoint: str, token: str = "api-token", **options: Any) -> Any:
        """Return a client whose methods block."""
        return _Blocking(AsyncClient(endpoint, token, **options), self.run)

    def run(self, awaitable: Any) -> Any:
        """Wait for what runs in the loop."""

        async def wait() -> Any:
            return await awaitable

        future = asyncio.run_coroutine_threadsafe(wait(), self._loop)
        try:
            return future.result(timeout=60)
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop; what was left running is a defect."""

        def left() -> list[Any]:
            return [task for task in asyncio.all_tasks(self._loop) if not task.done()]

        eventually_sync(lambda: not left(), "the end of all tasks")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Blocking:
    """An object whose coroutines block, and whose asynchronous generators are plain ones."""

    def __init__(self, inner: Any, run: Callable[[Any], Any]) -> None:
        self._inner = inner
        self._run = run

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return self._wrapped(value)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._wrapped(value(*args, **kwargs))

        return call

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_error: object) -> None:
        self._run(self._inner.close())

    def _wrapped(self, value: Any) -> Any:
        if inspect.iscoroutine(value):
            return self._wrapped(self._run(value))
        if inspect.isasyncgen(value):
            return _iterated(value, self._run)
        if type(value).__module__.startswith("podbay._async"):
            return _Blocking(value, self._run)
        return value


def _iterated(results: Any, run: Callable[[Any], Any]) -> Iterator[Any]:
    try:
        while True:
            try:
                yield run(anext(results))
            except StopAsyncIteration:
                return
    finally:
        run(results.aclose())
