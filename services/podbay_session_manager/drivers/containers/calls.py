"""Calls to one engine from the event loop: in bounded threads, in bounded time.

Once an engine was found unreachable, calls fail at once until a look-out has seen it again: what
does not answer must not hold up threads, nor the passes of the session manager.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from podbay_kit.replica_server.threads import ThreadPool
from podbay_kit.tasks import TaskSet
from podbay_session_manager.declared_nodes import EngineTls
from podbay_session_manager.drivers.containers.engine import EngineClient
from podbay_session_manager.drivers.contract import DriverUnreachableError, NotPermittedError

__all__ = ["EngineCalls"]

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_QUICK_SECONDS: Final = 8.0
_SLOW_SECONDS: Final = 45.0
_STREAM_SECONDS: Final = 120.0
_PING_SECONDS: Final = 3.0
_EVENT_SECONDS: Final = 60.0
_CALL_THREADS: Final = 8
_STREAM_THREADS: Final = 4
_BULK_THREADS: Final = 3
_FIRST_PAUSE: Final = 0.05
_LAST_PAUSE: Final = 2.0


class EngineCalls:
    """An engine, for coroutines.

    Args:
        name: The node's name, for logs.
        address: The engine's address.
        tls: The files of a TLS connection.
        on_hint: Called in the loop when something may have changed.
        quick: How long a call may take that only asks, in seconds.
        connect: Makes the way to the engine where there is none; None where none is needed.
        permitted: Whether anything may be changed at a moment; asked in the calls' threads.
    """

    def __init__(
        self,
        name: str,
        address: str,
        tls: EngineTls | None,
        on_hint: Callable[[], None],
        *,
        quick: float = _QUICK_SECONDS,
        connect: Callable[[], Awaitable[None]] | None = None,
        permitted: Callable[[], bool] = lambda: True,
    ) -> None:
        self._connect = connect
        self._permitted = permitted
        self._name = name
        self._address = address
        self._tls = tls
        self._on_hint = on_hint
        self._quick_seconds = quick
        self._quick = EngineClient(address, tls, quick)
        self._slow = EngineClient(address, tls, _SLOW_SECONDS)
        self._streams: set[EngineClient] = set()
        self._threads = ThreadPool(_CALL_THREADS, f"docker-{name}")
        self._stream_threads = ThreadPool(_STREAM_THREADS, f"docker-{name}-streams")
        self._bulk_threads = ThreadPool(_BULK_THREADS, f"docker-{name}-bulk")
        # For pings and events: never behind calls that hang.
        self._watch_threads = ThreadPool(2, f"docker-{name}-watch")
        self._tasks = TaskSet()
        self._down = ""
        self._lookout: asyncio.Task[None] | None = None
        self._watching = False
        self._closed = False

    @property
    def down(self) -> str:
        """Why the engine counts as unreachable now; empty where it does not."""
        return self._down

    async def ask(self, work: Callable[[EngineClient], T]) -> T:
        """Make a call that only asks, and is answered quickly.

        Raises:
            DriverUnreachableError: The engine cannot be reached.
            EngineError: It refused.
        """
        return await self._bounded(self._threads, work, self._quick, 2 * self._quick_seconds)

    async def tell(self, work: Callable[[EngineClient], T]) -> T:
        """Make a call that does something, which may take a while.

        Raises:
            DriverUnreachableError: The engine cannot be reached, or was lost meanwhile; or the
                session manager does not lead.
            EngineError: It refused.
        """

        def permitted(engine: EngineClient) -> T:
            # At the last moment: a process that was stopped on the way here goes on here.
            if not self._permitted():
                raise NotPermittedError
            return work(engine)

        return await self._bounded(self._threads, permitted, self._slow, 2 * _SLOW_SECONDS)

    async def stream(
        self,
        work: Callable[[EngineClient], T],
        *,
        bulk: bool = False,
        silence: float = _STREAM_SECONDS,
    ) -> T:
        """Do what takes long, with a connection of its own; bounded by how long nothing comes.

        Args:
            work: What to do.
            bulk: Whether it may take minutes, as a pull: it then waits behind its like only.
            silence: How long nothing may come, in seconds.

        Raises:
            DriverUnreachableError: The engine cannot be reached, or was lost meanwhile.
            EngineError: It refused.
        """
        client = EngineClient(self._address, self._tls, silence)
        self._streams.add(client)
        try:
            pool = self._bulk_threads if bulk else self._stream_threads
            return await self._bounded(pool, work, client, None)
        finally:
            self._streams.discard(client)
            client.close()

    def watch_events(self, labels: dict[str, str]) -> None:
        """Hint on events of containers with these labels, from now on. Idempotent."""
        if not self._watching and not self._closed:
            self._watching = True
            self._tasks.spawn(f"events-{self._name}", self._follow_events(labels))

    async def close(self) -> None:
        """End all connections. A thread that waits for an answer ends by its timeout."""
        self._closed = True
        for client in (self._quick, self._slow, *self._streams):
            client.close()
        await self._tasks.close()
        for pool in (
            self._threads,
            self._stream_threads,
            self._bulk_threads,
            self._watch_threads,
        ):
            pool.close()

    async def _bounded(
        self,
        pool: ThreadPool,
        work: Callable[[EngineClient], T],
        client: EngineClient,
        seconds: float | None,
    ) -> T:
        if self._closed:
            raise DriverUnreachableError(f"the driver of node {self._name} is closed")
        if self._down:
            raise DriverUnreachableError(self._down)
        try:
            async with asyncio.timeout(seconds):
                if self._connect is not None:
                    await self._connect()
                return await pool.run(work, client)
        except NotPermittedError:
            raise
        except DriverUnreachableError as error:
            self._lost(str(error))
            raise
        except TimeoutError as error:
            # Threads are still held by calls that have not been given up yet.
            why = f"The engine at {self._address} did not answer within {seconds:g} s."
            self._lost(why)
            raise DriverUnreachableError(why) from error

    def _lost(self, why: str) -> None:
        if self._closed:
            return
        if not self._down:
            _LOG.warning("node %s: %s", self._name, why)
        self._down = why
        if self._lookout is None or self._lookout.done():
            self._lookout = self._tasks.spawn(f"lookout-{self._name}", self._look_out())

    async def _look_out(self) -> None:
        """Wait until the engine answers again."""
        pause = _FIRST_PAUSE
        client = EngineClient(self._address, self._tls, _PING_SECONDS)
        try:
            while True:
                try:
                    if self._connect is not None:
                        await self._connect()
                    await self._watch_threads.run(client.ping)
                except Exception as error:  # noqa: BLE001 # whatever it is, it is not an answer
                    _LOG.debug("node %s: %s", self._name, error)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LAST_PAUSE)
                    continue
                _LOG.info("node %s: the engine answers", self._name)
                self._down = ""
                self._on_hint()
                return
        finally:
            client.close()

    async def _follow_events(self, labels: dict[str, str]) -> None:
        loop = asyncio.get_running_loop()

        def told() -> None:
            loop.call_soon_threadsafe(self._on_hint)

        while True:
            client = EngineClient(self._address, self._tls, _EVENT_SECONDS)
            self._streams.add(client)
            try:
                if not self._down:
                    # Ends now and then by itself; what is missed is seen by the next look.
                    await self._watch_threads.run(client.events, labels, told)
            except Exception as error:  # noqa: BLE001 # events are hints: without them it is slower
                _LOG.debug("node %s: no events: %s", self._name, error)
            finally:
                self._streams.discard(client)
                client.close()
            self._on_hint()
            await asyncio.sleep(_LAST_PAUSE / 4)
