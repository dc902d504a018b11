"""Hosting mocks in a thread of the process that has their classes."""

import asyncio
import concurrent.futures
import contextlib
import hmac
import json
import os
import socket
import threading
import uuid
import weakref
from pathlib import Path
from typing import Any

from podbay_kit.mock_host.hosted import HostedReplica
from podbay_kit.mock_host.records import HostFile
from podbay_kit.replica_server import ReplicaStartError
from podbay_kit.replica_server.binding import bind

__all__ = ["UNKNOWN_KEY", "MockHost"]

UNKNOWN_KEY = "unknown key"
"""What hinders a start where the host does not have the class."""

_HOST = "127.0.0.1"
_STOP_SECONDS = 10.0

_hosts: "weakref.WeakSet[MockHost]" = weakref.WeakSet()


class MockHost:
    """Offers classes of this process to the session manager of a local installation.

    The web servers run in one thread with an event loop of its own; classes are built, and calls
    that block are run, in further threads of this process. So `print`, breakpoints and the state of
    the process work, and what works with a mock works with a container: calls come over HTTP.

    Orders are lines of JSON over a connection that begins with the host's secret. The host tells
    all that it has, whenever something changes.

    Args:
        folder: Where the session manager looks for hosts.

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pid = os.getpid()
        self._classes: dict[str, type] = {}
        self._replicas: dict[str, HostedReplica] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._listener: socket.socket | None = None
        self._file: HostFile | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="podbay-mock-host", daemon=True
        )
        self._thread.start()
        started.result()
        _hosts.add(self)

    @property
    def alive(self) -> bool:
        """Whether it hosts: it was not stopped, and this is the process that made it."""
        return os.getpid() == self._pid and self._thread.is_alive()

    def offer(self, mock_type: type, key: str | None = None) -> str:
        """Hold a class for replicas to come.

        Args:
            mock_type: The class.
            key: The key of an offer that another process made; a new one unless given.

        Returns:
            The key by which a service names it.
        """
        key = key or uuid.uuid4().hex
        self._classes[key] = mock_type
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # stopped just now
                self._loop.call_soon_threadsafe(self._tell_all)
        return key

    def stop(self) -> None:
        """End all replicas and the thread. May be called more than once; nothing in a child."""
        if not self.alive or self._loop is None or self._stop is None:
            return
        with contextlib.suppress(RuntimeError):  # it ended by itself just now
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_STOP_SECONDS)

    def forget_in_child(self) -> None:
        """Close what a forked child got a copy of: the parent goes on with it, the child cannot."""
        if self._file is not None:
            self._file.close()
        sockets = [replica.listener for replica in self._replicas.values()]
        for each in (self._listener, *sockets):
            if each is not None:
                each.close()

    def _run(self, started: concurrent.futures.Future[None]) -> None:
        # Not the one that the process prefers: it may be made for another purpose.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            try:
                runner.run(self._main(started))
            except BaseException as error:
                if started.done():
                    raise
                started.set_exception(error)

    async def _main(self, started: concurrent.futures.Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._listener = bind(_HOST, 0)
        server = await asyncio.start_server(self._serve, sock=self._listener)
        try:
            self._file = HostFile(self._folder, self._listener.getsockname()[1])
            started.set_result(None)
            await self._stop.wait()
        finally:
            if self._file is not None:
                self._file.remove()
            server.close()
            await asyncio.gather(*(replica.close() for replica in self._replicas.values()))
            for writer in list(self._writers):
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            secret = (await reader.readline()).strip()
            if self._file is None or not hmac.compare_digest(
                secret, self._file.record.secret.encode()
            ):
                return
            self._writers.add(writer)
            self._tell(writer)
            while line := await reader.readline():
                order = json.loads(line)
                answer = {"answer": order["number"], **self._obey(order)}
                # First what is, then that it was done.
                self._tell_all()
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError, KeyError, asyncio.LimitOverrunError):
            return  # whoever it is does not know how to ask, or is gone
        finally:
            self._writers.discard(writer)
            writer.close()

    def _obey(self, order: dict[str, Any]) -> dict[str, Any]:
        replica_id = order["replica"]
        replica = self._replicas.get(replica_id)
        match order["order"]:
            case "start" if replica is None:
                return self._start(order)
            case "stop" if replica is not None:
                replica.stop(order["grace"])
            case "remove" if replica is not None:
                if not replica.ended:
                    return {"error": "running"}
                del self._replicas[replica_id]
        return {}

    def _start(self, order: dict[str, Any]) -> dict[str, Any]:
        mock_type = self._classes.get(order["key"])
        if mock_type is None:
            return {"error": UNKNOWN_KEY}
        try:
            self._replicas[order["replica"]] = HostedReplica(
                order["replica"],
                order["session"],
                mock_type,
                Path(order["log"]),
                self._tell_all,
            )
        except ReplicaStartError as error:
            return {"error": str(error)}
        return {}

    def _tell_all(self) -> None:
        for writer in self._writers:
            self._tell(writer)

    def _tell(self, writer: asyncio.StreamWriter) -> None:
        state = {
            "keys": list(self._classes),
            "replicas": [replica.state() for replica in self._replicas.values()],
        }
        writer.write(json.dumps(state).encode() + b"\n")


def _after_fork_in_child() -> None:
    for host in list(_hosts):
        host.forget_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
