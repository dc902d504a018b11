"""Answers that come in pieces: one asynchronous face over every kind of iterator."""

import asyncio
import inspect
from collections.abc import AsyncIterable, Iterator
from concurrent.futures import Future
from typing import Final, Protocol, Self, TypeGuard

from podbay_kit.replica_server.threads import ThreadPool

__all__ = ["Pieces", "is_plain", "pieces_of"]

_END = object()
_PLAIN: Final = frozenset({dict, list, str, int, float, bool, type(None)})


class Pieces(Protocol):
    """The pieces of one answer: iterate once, then close."""

    def __aiter__(self) -> Self:
        """Give itself."""
        ...

    async def __anext__(self) -> object:
        """Wait for the next piece."""
        ...

    async def aclose(self) -> None:
        """Stop: no further piece is pulled, and a generator is closed."""
        ...


def is_plain(result: object) -> bool:
    """Whether a mock's result is an answer as it is: nothing to await, nothing to iterate."""
    if type(result) in _PLAIN:
        return True
    return not (inspect.isawaitable(result) or _is_async(result) or isinstance(result, Iterator))


def pieces_of(result: object, pool: ThreadPool | None) -> Pieces | None:
    """Give the pieces of a result, or None if it is there as a whole.

    Args:
        result: What a mock answered, awaited already.
        pool: Where a plain iterator is pulled, one step at a time; None pulls it in the loop.
    """
    if _is_async(result):
        return _AsyncPieces(result)
    if isinstance(result, Iterator):
        return _InlinePieces(result) if pool is None else _ThreadedPieces(result, pool)
    return None


def _is_async(result: object) -> TypeGuard[AsyncIterable[object]]:
    return hasattr(result, "__aiter__")


class _AsyncPieces:
    def __init__(self, result: AsyncIterable[object]) -> None:
        self._iterator = aiter(result)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> object:
        return await anext(self._iterator)

    async def aclose(self) -> None:
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            await close()


class _InlinePieces:
    def __init__(self, iterator: Iterator[object]) -> None:
        self._iterator = iterator
        self._first = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> object:
        if not self._first:
            # An iterator that never waits would keep the loop from seeing that the client left.
            await asyncio.sleep(0)
        self._first = False
        item = next(self._iterator, _END)
        if item is _END:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        _close(self._iterator)


class _ThreadedPieces:
    def __init__(self, iterator: Iterator[object], pool: ThreadPool) -> None:
        self._iterator = iterator
        self._pool = pool
        self._step: Future[object] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> object:
        # A sentinel, because StopIteration cannot travel through a future.
        self._step = self._pool.submit(next, self._iterator, _END)
        item = await asyncio.wrap_future(self._step)
        if item is _END:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        step = self._step
        if step is None or step.cancel() or step.done():
            await self._pool.run(_close, self._iterator)
        else:
            # A generator that runs cannot be closed: it is, by the thread that runs it, as soon
            # as its step is over. Nobody waits for that, since the step may take its time.
            step.add_done_callback(lambda _: _close(self._iterator))


def _close(iterator: Iterator[object]) -> None:
    close = getattr(iterator, "close", None)
    if close is not None:
        close()
