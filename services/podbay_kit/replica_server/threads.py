"""A bounded pool of daemon threads, for code that blocks.

The standard library's pool joins its threads when the interpreter ends, so that one call that
hangs keeps a stopped replica alive until it is killed. Threads of this pool do not.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["ThreadPool"]

T = TypeVar("T")


class ThreadPool:
    """At most `size` threads, started as they are needed; more calls wait in order.

    Args:
        size: The number of threads, at least 1.
        name: What the threads' names begin with.
    """

    def __init__(self, size: int, name: str) -> None:
        if size < 1:
            raise ValueError(f"a pool needs at least one thread, not {size}")
        self._size = size
        self._name = name
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._outstanding = 0
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a call runs or waits."""
        return self._outstanding > 0

    def submit(self, function: Callable[..., T], *args: object) -> Future[T]:
        """Run `function(*args)` in a thread.

        Raises:
            RuntimeError: If the pool is closed.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool of threads is closed")
            self._outstanding += 1
            self._queue.put((future, lambda: function(*args)))
            if self._outstanding > self._threads and self._threads < self._size:
                self._threads += 1
                threading.Thread(
                    target=self._work, name=f"{self._name}-{self._threads}", daemon=True
                ).start()
        return future

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run `function(*args)` in a thread and wait for it.

        A cancel ends the waiting at once; a call that waits for a thread is then dropped, one that
        runs goes on to its end, because Python has no way to stop it.
        """
        return await asyncio.wrap_future(self.submit(function, *args))

    def close(self) -> None:
        """Take no more calls; what was taken is still run. Does not wait."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for _ in range(self._threads):
                self._queue.put(None)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            future, call = job
            try:
                if future.set_running_or_notify_cancel():
                    _settle(future, call)
            finally:
                with self._lock:
                    self._outstanding -= 1
            del job, future, call  # an idle thread keeps no result alive


def _settle(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        result = call()
    except StopIteration as error:
        # asyncio's futures refuse it, and whoever waits would wait forever. As in a generator,
        # it is a defect of the code that let it out.
        wrapped = RuntimeError("the call raised StopIteration")
        wrapped.__cause__ = error
        future.set_exception(wrapped)
    except BaseException as error:  # noqa: BLE001 - whoever waits for the call gets it, whatever it is
        future.set_exception(error)
    else:
        future.set_result(result)
