"""A real PostgreSQL for tests: a cluster of its own, on a free port of loopback.

The server refuses root, so that it runs as another user where the tests run as root. It is ended
by its process id; one that Debian started by itself is left alone.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg

_USERS = ("postgres", "nobody")
_FAST = (
    "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_wal_size=256MB "
    "-c shared_buffers=32MB -c max_connections=200 -c autovacuum=off"
)


def binaries() -> Path | None:
    """Return the folder of the newest server's programs; None where there is none."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3])
    )
    if found:
        return found[-1].parent
    beside = shutil.which("postgres")
    return None if beside is None else Path(beside).parent


def missing_postgresql() -> str | None:
    """Return why no PostgreSQL can be started here, for people; None where one can."""
    if binaries() is None:
        return "no PostgreSQL is installed: apt-get install postgresql"
    return None


class PostgreSQL:
    """A server, and databases in it.

    Args:
        folder: Where its cluster is; it must not exist.
        durable: Whether it syncs, as one that is killed must.
    """

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        programs = binaries()
        assert programs is not None
        self._programs = programs
        self._folder = folder
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self.password = uuid.uuid4().hex
        self.port = 0

    def create(self) -> None:
        """Make the cluster."""
        # The user that it runs as must reach it.
        self._folder.mkdir(mode=0o755)
        secret = self._folder / "password"
        secret.write_text(self.password)
        for path in (self._folder, secret) if os.geteuid() == 0 else ():
            os.chown(path, *_unprivileged())
        self._run(
            "initdb",
            *("--pgdata", str(self._data), "--username", "podbay", "--pwfile", str(secret)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
        )
        secret.unlink()

    def start(self) -> None:
        """Start the server, and return when it takes connections."""
        self.port = self.port or _free_port()
        options = "" if self._durable else _FAST
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [
                    str(self._programs / "postgres"),
                    *("-D", str(self._data), "-p", str(self.port), "-h", "127.0.0.1"),
                    *("-k", str(self._folder), *options.split()),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                user=self._user,
                group=self._group,
                extra_groups=None if self._user is None else [],
                cwd=self._folder,
            )
        end = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
                assert time.monotonic() < end, (self._folder / "log").read_text()[-2000:]
                time.sleep(0.05)
            else:
                return

    def stop(self, number: int = signal.SIGINT) -> None:
        """End the server: at once but cleanly, or with another signal."""
        if self._process is None:
            return
        # Each has a process group of its own. They hold the memory that the next server wants, and
        # see that this one was killed only at their next look.
        children = psutil.Process(self._process.pid).children()
        self._process.send_signal(number)
        self._process.wait(60)
        self._process = None
        for child in children if number == signal.SIGKILL else ():
            with suppress(psutil.NoSuchProcess):
                child.kill()
        _, left = psutil.wait_procs(children, 60)
        assert not left, left

    @property
    def pid(self) -> int:
        """The process id of the server."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres", *, user: str = "podbay", schema: str = "") -> str:
        """Return the URL of a database, with the password."""
        query = f"?schema={schema}" if schema else ""
        return f"postgresql://{user}:{self.password}@127.0.0.1:{self.port}/{database}{query}"

    def database(self) -> str:
        """Make a new database, and return its name."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            # By files: the template is small, and no checkpoint is waited for.
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _user(self) -> int | None:
        return _unprivileged()[0] if os.geteuid() == 0 else None

    @property
    def _group(self) -> int | None:
        return _unprivileged()[1] if os.geteuid() == 0 else None

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            user=self._user,
            group=self._group,
            extra_groups=None if self._user is None else [],
            cwd=self._folder,
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"


@contextmanager
def running_postgresql(*, durable: bool = False) -> Iterator[PostgreSQL]:
    """Run a server of its own, and remove all of it at the end."""
    # Not below pytest's folder: the way there is closed to other users.
    parent = Path(tempfile.mkdtemp(prefix="podbay-postgresql-"))
    parent.chmod(0o755)
    server = PostgreSQL(parent / "cluster", durable=durable)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(parent)


def _unprivileged() -> tuple[int, int]:
    for name in _USERS:
        with suppress(KeyError):
            found = pwd.getpwnam(name)
            return found.pw_uid, found.pw_gid
    raise LookupError(f"there is none of the users {_USERS}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
