"""A socket between a driver and its engine that breaks in the ways that connections do."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

_SIZE = 65536


class FaultySocket:
    """Passes connections on to an engine, until it is told otherwise.

    Args:
        path: Where it listens.
        engine: The engine's socket.
    """

    def __init__(self, path: Path, engine: Path) -> None:
        self.path = path
        self._engine = engine
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._passing = True
        self.cut_answers = 0
        """How many further answers are cut off: the engine does what it was asked, and nobody
        hears of it."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"unix://{self.path}"

    def cut(self) -> None:
        """Close all connections, and every new one at once."""
        self._passing = False
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Pass connections on again."""
        self._passing = True

    def close(self) -> None:
        """End it."""
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        self.path.unlink()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._passing:
                client.close()
                continue
            engine = socket.socket(socket.AF_UNIX)
            try:
                engine.connect(str(self._engine))
            except OSError:
                client.close()
                engine.close()
                continue
            with self._lock:
                self._open |= {client, engine}
            threads = [
                threading.Thread(target=self._pump, args=(client, engine, False), daemon=True),
                threading.Thread(target=self._pump, args=(engine, client, True), daemon=True),
            ]
            for thread in threads:
                thread.start()
            threading.Thread(target=self._end, args=(client, engine, threads), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(_SIZE):
                if answers and self.cut_answers > 0:
                    self.cut_answers -= 1
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _end(
        self, client: socket.socket, engine: socket.socket, threads: list[threading.Thread]
    ) -> None:
        for thread in threads:
            thread.join()
        with self._lock:
            self._open -= {client, engine}
        client.close()
        engine.close()
