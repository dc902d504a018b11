"""A service as a process: its options, its loop, its signals, its end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import logging
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from podbay_kit.starting import StartError, join_address, split_address

__all__ = [
    "PARENT_VARIABLE",
    "SettingsError",
    "Stop",
    "byte_size",
    "common_options",
    "listen_address",
    "process_end",
    "read_secret",
    "run",
    "serve_until",
    "write_address_file",
    "write_private",
]

_LOG = logging.getLogger(__name__)
_PARENT_POLL_SECONDS = 0.5
_OPEN_FILES = 65_536
PARENT_VARIABLE = "_PODBAY_PARENT_PID"
"""In the environment: which process starts this one. Not for its own children."""

# A parent may die before this process can look who it is; so who can tells it.
_PARENT = int(os.environ.pop(PARENT_VARIABLE, os.getppid()))


class SettingsError(StartError):
    """A setting cannot be used; the text says which, and what to do."""


class Stop:
    """The wish that the process ends."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Return when the process shall end."""
        await self._event.wait()

    def is_set(self) -> bool:
        """Say whether the process shall end."""
        return self._event.is_set()

    def set(self) -> None:
        """Ask the process to end."""
        self._event.set()


def byte_size(text: str) -> int:
    """Read an option that is a number of bytes, as "500Gi".

    Raises:
        argparse.ArgumentTypeError: It is none, or nothing.
    """
    # Pydantic is only for who has such an option.
    from podbay.schema import platform  # noqa: PLC0415 # heavy

    try:
        size = platform.quantity_to_int(text)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, as 500Gi") from error
    if size <= 0:
        raise argparse.ArgumentTypeError("must be more than nothing")
    return size


def common_options(parser: argparse.ArgumentParser, *, port: int) -> None:
    """Add the options that all services have."""
    parser.add_argument(
        "--listen",
        default=f"127.0.0.1:{port}",
        type=listen_address,
        metavar="HOST:PORT",
        help="the address to serve on; port 0 for a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--data-dir", type=Path, required=True, metavar="DIR", help="where the service keeps data"
    )
    parser.add_argument(
        "--address-file",
        type=Path,
        metavar="FILE",
        help="written when the service listens: its process id and its address as JSON",
    )
    parser.add_argument(
        "--exit-with-parent",
        action="store_true",
        help="stop when the process that started this one is gone",
    )
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=10.0,
        metavar="S",
        help="how long calls may finish after SIGTERM (default: %(default)s)",
    )
    parser.add_argument(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help="(default: %(default)s)",
    )


def listen_address(text: str) -> str:
    """Read an option that is an address, as "127.0.0.1:7101".

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        split_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def read_secret(path: Path) -> str:
    """Return the secret in a file that only its owner can read.

    Raises:
        SettingsError: The file is not there, is empty, or others can read it.
    """
    try:
        mode = path.stat().st_mode
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"The secret file {path} cannot be read ({type(error).__name__}). `podbay up` makes "
            "it; by hand: (umask 077; openssl rand -hex 32 > FILE)"
        ) from error
    if mode & 0o077:
        raise SettingsError(f"The secret file {path} is open to others. Mend it: chmod 600 {path}")
    if len(secret) < 32:
        raise SettingsError(f"The secret in {path} is shorter than 32 characters. Make a new one.")
    return secret


def write_private(path: Path, text: str) -> None:
    """Write a file at once and whole, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_address_file(path: Path, host: str, port: int, service: str | None = None) -> None:
    """Tell the process that started this one where it listens.

    Args:
        path: The file.
        host: The host that it listens on.
        port: The port for clients.
        service: The address for services, if there is one.
    """
    told = {"pid": os.getpid(), "address": join_address(host, port)}
    if service is not None:
        told["serviceAddress"] = service
    write_private(path, json.dumps(told))


async def serve_until(
    stop: Stop,
    serving: AbstractAsyncContextManager[int],
    options: argparse.Namespace,
    service_address: Callable[[], str | None],
) -> None:
    """Serve until the process shall end, and tell where, as the options say.

    Args:
        stop: The wish that the process ends.
        serving: Serves, and gives the port for clients.
        options: Those of `common_options`.
        service_address: Returns the address for services, if there is one; asked once it serves.
    """
    async with serving as port:
        if options.address_file is not None:
            host, _ = split_address(options.listen)
            write_address_file(options.address_file, host, port, service_address())
        await stop.wait()


def run(
    main: Callable[[Stop], Awaitable[None]],
    *,
    name: str,
    log_level: str = "info",
    exit_with_parent: bool = False,
    outlive: Callable[[], Awaitable[None]] | None = None,
) -> int:
    """Run a service until it ends, and return its exit code.

    SIGTERM and SIGINT ask it to end, a second one ends it at once.

    Args:
        main: The service; it returns when its work is done.
        name: The service's name, for the log.
        log_level: The least severity that is logged.
        exit_with_parent: Whether the end of the parent process asks it to end, too.
        outlive: What is waited for between the parent's end and the wish to end.
    """
    logging.basicConfig(
        level=log_level.upper(),
        stream=sys.stderr,
        format=f"%(asctime)s %(levelname)s {name}[{os.getpid()}] %(name)s: %(message)s",
    )
    _raise_file_limit()
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_worth_a_line)
    # Alembic reports each step of a migration at INFO; a start has nothing to say about none.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            watch = functools.partial(_watch_parent, outlive) if exit_with_parent else None
            runner.run(_supervised(main, watch))
    except StartError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 2
    return 0


def _raise_file_limit() -> None:
    """Have as many open files as the machine's limits let this user have, up to a point.

    The usual soft limit of 1,024 is for programs that use `select`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Keep out of the log some of what gRPC writes, whatever a caller makes it write.

    That is metadata that are not UTF-8: tokens, for one. And that an answer could not be sent: its
    caller has left, and gRPC has not yet heard of that where it writes a traceback of it.
    """
    return not str(record.msg).startswith(("Invalid encoding", "ExecuteBatchError raised in core"))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 # not on every platform
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _supervised(
    main: Callable[[Stop], Awaitable[None]],
    watch: Callable[[Stop], Coroutine[Any, Any, None]] | None,
) -> None:
    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, stop, number)
    watcher = None if watch is None else loop.create_task(watch(stop), name="watch-parent")
    try:
        await main(stop)
    finally:
        if watcher is not None:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher


def _on_signal(stop: Stop, number: int) -> None:
    if stop.is_set():
        _LOG.warning("a second %s: ending at once", signal.Signals(number).name)
        os._exit(128 + number)
    _LOG.info("%s: finishing what runs", signal.Signals(number).name)
    stop.set()


async def process_end(pid: int, still: Callable[[], bool]) -> None:
    """Return as soon as another process has ended.

    Args:
        pid: Its id.
        still: Whether the id is still that of the process that is meant; an id may be given anew.
    """
    descriptor = _opened(pid)
    try:
        # Looked at after the opening: what was opened is then the right process.
        if descriptor is not None and still():
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(descriptor, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(descriptor)
            return
        while still():  # noqa: ASYNC110 # nothing tells of its end
            await asyncio.sleep(_PARENT_POLL_SECONDS)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _opened(pid: int) -> int | None:
    """Return a descriptor that tells of a process's end; None where there is no such thing."""
    opening = getattr(os, "pidfd_open", None)
    if opening is None:
        return None
    try:
        return int(opening(pid))
    except OSError:
        return None  # a kernel without it, or the process has ended


async def parent_end() -> None:
    """Return as soon as the process that started this one has ended."""
    await process_end(_PARENT, lambda: os.getppid() == _PARENT)


async def _watch_parent(outlive: Callable[[], Awaitable[None]] | None, stop: Stop) -> None:
    await parent_end()
    if outlive is not None:
        await outlive()
    _LOG.warning("the parent process is gone: finishing what runs")
    stop.set()
