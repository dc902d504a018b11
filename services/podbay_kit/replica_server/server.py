"""A replica's web server, to be hosted in a running event loop."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Generator
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from podbay_kit.replica_server.app import MAX_BODY_BYTES, ReplicaApp
from podbay_kit.replica_server.binding import bind, bind_error
from podbay_kit.replica_server.loading import build_mock, load_mock
from podbay_kit.replica_server.threads import ThreadPool

__all__ = ["DEFAULT_THREADS", "ReplicaServer"]

DEFAULT_THREADS = 32
"""How many calls of a mock that may block run at once."""

_KEEP_ALIVE_SECONDS = 75
# How long a stop waits for requests that were cancelled at the end of the grace.
_CANCEL_SECONDS = 1.0

_logger = logging.getLogger("podbay.replica")


class ReplicaServer:
    """Serves one mock on one port, in the current event loop; installs no signal handlers.

    Args:
        mock: A built mock, its class, or its import path. A class is imported and built in a
            thread while `start` waits, so that a slow constructor does not hold the loop.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        threads: How many calls run at once, of a mock that may block.
        max_body_bytes: The most bytes of a request's body.
        listener: A socket that is bound already, instead of one to `host` and `port`; the server
            closes it.
        logger: Where it is written what goes wrong with calls; "podbay.replica" unless given.
    """

    def __init__(
        self,
        mock: object,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        threads: int = DEFAULT_THREADS,
        max_body_bytes: int = MAX_BODY_BYTES,
        listener: socket.socket | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        self._mock = mock
        self._logger = logger or _logger
        self._listener = listener
        self._host = host
        self._port = port
        self._max_body_bytes = max_body_bytes
        self._pool = ThreadPool(threads, "podbay-replica")
        self._started = False
        self._app: ReplicaApp | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a thread still runs a call, also after `stop`."""
        return self._pool.busy

    async def start(self) -> int:
        """Build the mock and listen; the replica is ready when this returns.

        Returns:
            The bound port.

        Raises:
            MockNotImportableError: If the class cannot be imported.
            MockFailedError: If its constructor fails.
            PortTakenError: If another socket listens on the port.
            BindFailedError: If the address cannot be listened on for another reason.
            RuntimeError: If it was started or stopped before.
        """
        if self._started:
            raise RuntimeError("a replica's server is started once")
        self._started = True
        try:
            # Before the mock is built: that the port is taken should show early.
            listener = self._listener or bind(self._host, self._port)
            self._listener = listener
            mock = await self._build()
            self._app = ReplicaApp(
                mock, pool=self._pool, max_body_bytes=self._max_body_bytes, logger=self._logger
            )
            self._server = _Server(_config(self._app))
            self._serving = asyncio.create_task(
                self._server.serve(sockets=[listener]), name="podbay-replica-server"
            )
            await self._listening(self._serving, self._server)
        except BaseException:
            await self.stop(0)
            raise
        port: int = listener.getsockname()[1]
        return port

    async def stop(self, grace: float) -> None:
        """Stop listening, let what runs finish, then cancel it.

        Does nothing if it was stopped, or never started. A call that blocks in a thread cannot be
        cancelled: its client gets an error, the thread ends with its call.

        Args:
            grace: How long to wait for what runs, in seconds.
        """
        self._started = True  # a start after this is refused
        serving, self._serving = self._serving, None
        try:
            if serving is not None and self._server is not None and self._app is not None:
                self._server.stop(grace)
                await asyncio.wait([serving])
                await self._end(self._app)
        finally:
            self._pool.close()
            if self._listener is not None:
                self._listener.close()

    async def _build(self) -> object:
        if isinstance(self._mock, str):
            return await self._pool.run(load_mock, self._mock)
        if isinstance(self._mock, type):
            return await self._pool.run(build_mock, self._mock)
        return self._mock

    async def _end(self, app: ReplicaApp) -> None:
        """Wait for the requests that the server cancelled when the grace was over."""
        if running := app.running:
            await asyncio.wait(running, timeout=_CANCEL_SECONDS)
        if left := len(app.running):
            self._logger.warning("%d requests did not end when they were cancelled", left)

    async def _listening(self, serving: asyncio.Task[None], server: "_Server") -> None:
        listening = asyncio.ensure_future(server.listening.wait())
        try:
            await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            listening.cancel()
        if serving.done():
            try:
                serving.result()
            except OSError as error:
                raise bind_error(self._host, self._port, error) from error


def _config(app: ReplicaApp) -> uvicorn.Config:
    return uvicorn.Config(
        cast("Any", app),  # the same messages as uvicorn's, whose types are private
        http=HttpToolsProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        # Longer than a router keeps an idle connection, so that it is the router who closes it.
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )


class _Server(uvicorn.Server):
    """uvicorn's server, without its signal handlers and its ten wake-ups a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._stopping.wait()

    def stop(self, grace: float) -> None:
        # uvicorn declares whole seconds and hands the number to asyncio, which takes any.
        self.config.timeout_graceful_shutdown = cast("int", max(grace, 0.0))
        self._stopping.set()
