"""The connections to replicas: kept while they are used, never used when they are stale."""

import asyncio
import errno
import logging
import os
import resource
import socket
from collections.abc import Callable
from typing import Final

from podbay_inference_router.http1 import Connection
from podbay_inference_router.ports import Sendable
from podbay_inference_router.requests import JSON_TYPE
from podbay_inference_router.settings import Settings
from podbay_kit.tasks import TaskSet

__all__ = ["ConnectionPools", "Pool"]

_LOG = logging.getLogger(__name__)

_ACCEPT: Final = "application/json, application/x-ndjson, application/jsonl, text/event-stream"
_MAX_HEADS: Final = 256
_SWEEP_SECONDS: Final = 1.0
_NO_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})
_FILES_PAUSE: Final = 0.05
_TELL_SECONDS: Final = 60.0


class ConnectionPools:
    """The pools of all endpoints, and the timer that closes what is idle for too long.

    Args:
        settings: The limits.
        loop: The event loop.
    """

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self._settings = settings
        self._loop = loop
        self._tasks = TaskSet()
        self._idle: set[Pool] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._told_at: float | None = None

    def connect(self, host: str, port: int) -> "Pool":
        """Return the pool of a new endpoint."""
        return Pool(
            host, port, self._settings, self._loop, self._tasks, self._note_idle, self._free_files
        )

    async def close(self) -> None:
        """Close what is idle, and end what is being connected."""
        if self._timer is not None:
            self._timer.cancel()
        for pool in self._idle:
            pool.close()
        self._idle.clear()
        await self._tasks.close()

    def _free_files(self, error: OSError) -> None:
        """Close what is idle, as no more files can be opened; tell the operator now and then."""
        for pool in self._idle:
            pool.close_older(float("inf"))
        now = self._loop.time()
        if self._told_at is None or now - self._told_at > _TELL_SECONDS:
            self._told_at = now
            limit = _limit_of(error)
            _LOG.warning(
                "connections to replicas cannot be made, as %s; calls wait for %g s at most and "
                "are refused then",
                "the machine can open no more files (fs.file-max)"
                if limit is None
                else f"all {limit} files are open that this router may open (ulimit -n)",
                self._settings.connect_timeout,
            )

    def _note_idle(self, pool: "Pool") -> None:
        self._idle.add(pool)
        if self._timer is None:
            self._timer = self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        oldest = self._loop.time() - self._settings.idle_seconds
        self._idle = {pool for pool in self._idle if pool.close_older(oldest)}
        self._timer = self._loop.call_later(_SWEEP_SECONDS, self._sweep) if self._idle else None


class Pool:
    """The connections to one endpoint. The one that was used last is used first."""

    def __init__(
        self,
        host: str,
        port: int,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        tasks: TaskSet,
        note_idle: Callable[["Pool"], None],
        free_files: Callable[[OSError], None],
    ) -> None:
        self._host = host
        self._port = port
        self._settings = settings
        self._loop = loop
        self._tasks = tasks
        self._note_idle = note_idle
        self._free_files = free_files
        self._idle: list[Connection] = []
        self._closed = False
        self._heads: dict[str, bytes] = {}

    def send(self, call: Sendable, path: str, content_type: str, body: bytes) -> None:
        """Send a request over an idle connection, or over a new one."""
        if content_type is JSON_TYPE:
            head = self._heads.get(path) or self._keep_head(path)
        else:
            head = self._make_head(path, content_type)
        if self._idle:
            now = self._loop.time()
            connection = self._take_idle(now)
            if connection is not None:
                connection.start(call, head, body, now)
                return
        pending = _Pending()
        call.flight = pending
        pending.task = self._tasks.spawn(
            f"connect to {self._host}:{self._port}", self._open(call, head, body)
        )

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it is done."""
        self._closed = True
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def close_older(self, oldest: float) -> bool:
        """Close what has been idle since before `oldest`; tell whether anything is idle still."""
        keep = [item for item in self._idle if item.idle_since > oldest]
        if len(keep) < len(self._idle):
            for connection in self._idle:
                if connection.idle_since <= oldest:
                    connection.close()
            self._idle = keep
        return bool(keep)

    def _take_idle(self, now: float) -> Connection | None:
        """Take an idle connection that can be used; None where there is none."""
        oldest = now - self._settings.idle_seconds
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def _open(self, call: Sendable, head: bytes, body: bytes) -> None:
        try:
            connection = await self._connection()
        except OSError as error:  # TimeoutError is one
            if error.errno in _NO_FILES:
                call.on_no_files(_limit_of(error))
            else:
                call.on_connect_failed(_explain(error, self._settings.connect_timeout))
            return
        if not connection.usable:
            call.on_connect_failed("the connection was closed at once")
            return
        call.on_connected()
        connection.start(call, head, body, self._loop.time())

    async def _connection(self) -> Connection:
        """Connect; while the router lacks files, wait a moment for some, or for who is done.

        Raises:
            OSError: No connection was made; with EMFILE or ENFILE where files lacked until the end.
        """
        give_up_at = self._loop.time() + self._settings.connect_timeout
        while True:
            try:
                return await self._connect()
            except OSError as error:
                lacking = _lack_of_files(error)
                if lacking is None:
                    raise
            connection = self._take_idle(self._loop.time())
            if connection is None:
                self._free_files(lacking)
                await asyncio.sleep(_FILES_PAUSE)
                connection = self._take_idle(self._loop.time())
            if connection is not None:
                return connection
            if self._loop.time() >= give_up_at:
                raise lacking

    async def _connect(self) -> Connection:
        connection = Connection(self._release, self._forget)
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                await self._loop.create_connection(lambda: connection, self._host, self._port)
        except (asyncio.CancelledError, OSError):
            connection.abort()
            raise
        return connection

    def _release(self, connection: Connection) -> None:
        if self._closed:
            connection.close()
            return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)
        if len(self._idle) == 1:
            self._note_idle(self)

    def _forget(self, connection: Connection) -> None:
        if connection.idle_since and connection in self._idle:
            self._idle.remove(connection)

    def _keep_head(self, path: str) -> bytes:
        if len(self._heads) >= _MAX_HEADS:
            self._heads.clear()
        head = self._heads[path] = self._make_head(path, JSON_TYPE)
        return head

    def _make_head(self, path: str, content_type: str) -> bytes:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return (
            f"POST {path} HTTP/1.1\r\n"
            f"Host: {host}:{self._port}\r\n"
            "User-Agent: podbay\r\n"
            f"Accept: {_ACCEPT}\r\n"
            "Accept-Encoding: identity\r\n"
            f"Content-Type: {content_type}\r\n"
            "Content-Length: "
        ).encode("latin-1")


class _Pending:
    """A request whose connection is being made."""

    __slots__ = ("task",)

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None

    def abort(self) -> None:
        """Give up."""
        if self.task is not None:
            self.task.cancel()

    def pause(self) -> None:
        """Nothing is read yet; the call pauses the answer when it comes."""

    def resume(self) -> None:
        """Nothing was paused."""


def _lack_of_files(error: OSError) -> OSError | None:
    """Tell whether connecting failed because no more files can be opened; returns what says so."""
    if error.errno in _NO_FILES:
        return error
    if isinstance(error, socket.gaierror):
        # A resolver that cannot open its files says only that it did not succeed.
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as why:
            return why if why.errno in _NO_FILES else None
    return None


def _limit_of(error: OSError) -> int | None:
    """Give the most files of this process where they are what is used up, else None."""
    if error.errno != errno.EMFILE:
        return None
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _explain(error: OSError, timeout: float) -> str:
    """Say in words why no connection was made."""
    if isinstance(error, TimeoutError):
        return f"no connection was made within {timeout:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(error, socket.gaierror):
        return "its host name cannot be resolved"
    if error.errno is not None and error.errno in errno.errorcode:
        return f"connecting failed: {os.strerror(error.errno)}"
    return "connecting failed"
