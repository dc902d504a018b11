"""A replica's web server, to be hosted in a running event loop."""

import asyncio
import contextlib
import logging
import socket

from podbay_kit.replica_server.app import MAX_BODY_BYTES, ReplicaApp, stopping
from podbay_kit.replica_server.binding import bind, bind_error
from podbay_kit.replica_server.connection import Connection, Connections
from podbay_kit.replica_server.loading import build_mock, load_mock
from podbay_kit.replica_server.threads import ThreadPool

__all__ = ["DEFAULT_THREADS", "ReplicaServer"]

DEFAULT_THREADS = 32
"""How many calls of a mock that may block run at once."""

_BACKLOG = 2048
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
        self._connections = Connections()
        self._server: asyncio.Server | None = None

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
            app = ReplicaApp(await self._build(), pool=self._pool, logger=self._logger)
            loop = asyncio.get_running_loop()
            try:
                self._server = await loop.create_server(
                    lambda: Connection(app.handle, loop, self._connections, self._max_body_bytes),
                    sock=listener,
                    backlog=_BACKLOG,
                )
            except OSError as error:
                raise bind_error(self._host, self._port, error) from error
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
        server, self._server = self._server, None
        try:
            if server is not None:
                server.close()
                for connection in self._connections.all():
                    connection.stop()
                await self._ended(grace)
                for connection in self._connections.all():
                    connection.end(stopping())
                await self._ended(_CANCEL_SECONDS)
                if self._connections:
                    self._logger.warning(
                        "%d connections did not end with their requests", len(self._connections)
                    )
                for connection in self._connections.all():
                    connection.abort()
        finally:
            self._pool.close()
            if self._listener is not None:
                self._listener.close()

    async def _ended(self, seconds: float) -> None:
        """Wait until no connection is left, but no longer than this."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._connections.none.wait()

    async def _build(self) -> object:
        if isinstance(self._mock, str):
            return await self._pool.run(load_mock, self._mock)
        if isinstance(self._mock, type):
            return await self._pool.run(build_mock, self._mock)
        return self._mock
