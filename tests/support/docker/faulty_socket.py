"""A socket between a driver and its engine that breaks in the ways that connections do."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SIZE = 65536
_REMOVAL = re.compile(rb"DELETE /[^ ]*networks/")
_QUIET_SECONDS = 120.0


@dataclass(eq=False)
class _Link:
    """A connection of a client, and the one to the engine that belongs to it."""

    client: socket.socket
    engine: socket.socket
    removing: bool = False
    """Whether the engine has been asked to remove a network, and has not answered."""


class FaultySocket:
    """Passes connections on to an engine, until it is told otherwise.

    Args:
        path: Where it listens.
        engine: The engine's socket.
    """

    def __init__(self, path: Path, engine: Path) -> None:
        self.path = path
        self._engine = engine
        self._open: set[_Link] = set()
        self._lock = threading.Lock()
        self._passing = True
        self._quiet = threading.Condition()
        self._held = False
        self._removing = 0
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
            for link in self._open:
                # The engine's end follows, once the engine has nothing more to say on it.
                _shut(link.client)

    def mend(self) -> None:
        """Pass connections on again."""
        self._passing = True

    @contextlib.contextmanager
    def no_removals(self) -> Iterator[None]:
        """Let the engine remove no network meanwhile: requests to do so are held back.

        One of 20.10 that is killed in the middle of that does not start again; see
        `Engine.restart`. The engine must answer when this begins.
        """
        with self._quiet:
            self._held = True
            done = self._quiet.wait_for(lambda: self._removing == 0, _QUIET_SECONDS)
        try:
            assert done, "the engine does not come to an end with networks"
            yield
        finally:
            with self._quiet:
                self._held = False
                self._quiet.notify_all()

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
            link = _Link(client, engine)
            with self._lock:
                self._open.add(link)
            threads = [
                threading.Thread(target=self._ask, args=(link,), daemon=True),
                threading.Thread(target=self._answer, args=(link,), daemon=True),
            ]
            for thread in threads:
                thread.start()
            threading.Thread(target=self._end, args=(link, threads), daemon=True).start()

    def _ask(self, link: _Link) -> None:
        """Pass on what the client says."""
        with contextlib.suppress(OSError):
            while data := link.client.recv(_SIZE):
                if _REMOVAL.match(data):
                    with self._quiet:
                        self._quiet.wait_for(lambda: not self._held)
                        self._removing += 1
                        link.removing = True
                link.engine.sendall(data)
        _shut(link.client)
        with self._quiet:
            if not link.removing:
                _shut(link.engine)

    def _answer(self, link: _Link) -> None:
        """Pass on what the engine says."""
        with contextlib.suppress(OSError):
            while data := link.engine.recv(_SIZE):
                self._answered(link)
                if self.cut_answers > 0:
                    self.cut_answers -= 1
                    break
                link.client.sendall(data)
        self._answered(link)
        _shut(link.client)
        _shut(link.engine)

    def _answered(self, link: _Link) -> None:
        with self._quiet:
            if link.removing:
                link.removing = False
                self._removing -= 1
                self._quiet.notify_all()

    def _end(self, link: _Link, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join()
        # One that was asked for when the connection had ended already.
        self._answered(link)
        with self._lock:
            self._open.discard(link)
        link.client.close()
        link.engine.close()


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
