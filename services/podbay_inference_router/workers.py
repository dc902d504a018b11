"""Several workers on one port: started, watched, replaced, and stopped by one parent."""

import argparse
import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Final

from podbay_inference_router.exposition import NUMBERS_PREFIX, MetricsServer, WorkerNumbers
from podbay_inference_router.worker import READY_LINE
from podbay_kit.errors import StartError
from podbay_kit.process import Stop, write_address_file
from podbay_kit.serving import ListenError, split_address
from podbay_kit.tasks import TaskSet

__all__ = ["hold_port", "restart_pause", "supervise"]

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.1
_LAST_PAUSE: Final = 5.0
# A worker that lived this long was well: the next one starts without a long pause.
_WELL_SECONDS: Final = 10.0
_START_ERROR: Final = 2
_KILL_AFTER: Final = 5.0
# A line holds a worker's numbers, those of every replica among them.
_MAX_LINE: Final = 64 << 20


def restart_pause(short_lives: int) -> float:
    """Give the seconds before a worker is started again.

    Args:
        short_lives: How many workers in its place died young in a row.
    """
    return float(min(_LAST_PAUSE, _FIRST_PAUSE * 2 ** min(max(short_lives - 1, 0), 10)))


def hold_port(listen: str) -> tuple[socket.socket, str]:
    """Make sure that nobody has the address, and keep it for the workers.

    The kernel would let any process of the same user share a port that all sides opened for
    sharing; so the port is first opened without that. The socket that holds it never listens, so
    no connection goes to it.

    Args:
        listen: The address, as "127.0.0.1:0".

    Returns:
        The socket, which must stay open, and the address with its real port.

    Raises:
        ListenError: The address cannot be had.
    """
    host, port = split_address(listen)
    holder: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        if port:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen(1)
        holder = socket.socket(family, kind, protocol)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)
    except OSError as error:
        if holder is not None:
            holder.close()
        raise ListenError(
            f"Cannot listen on {listen}: the port is taken, or the address is not one of this "
            "machine. Choose another port, or 0 for a free one."
        ) from error
    shown = f"[{host}]" if ":" in host else host
    return holder, f"{shown}:{holder.getsockname()[1]}"


async def supervise(
    arguments: Sequence[str], options: argparse.Namespace, workers: int, stop: Stop
) -> None:
    """Run workers until asked to stop; one that dies is replaced.

    Args:
        arguments: The command line, which the workers get, too.
        options: The same, parsed.
        workers: How many.
        stop: The wish to stop.

    Raises:
        StartError: The address cannot be had, or a worker cannot start.
    """
    holder, listen = hold_port(options.listen)
    tasks = TaskSet()
    numbers = WorkerNumbers()
    slots = [
        _Slot(
            [*arguments, "--listen", listen, "--exit-with-parent", "--worker", str(index)],
            index,
            options.drain_seconds,
            numbers,
        )
        for index in range(workers)
    ]
    metrics: MetricsServer | None = None
    try:
        if options.metrics_listen is not None:
            metrics = MetricsServer(options.metrics_listen, numbers.total)
        runs = [tasks.spawn(f"worker-{slot.index}", slot.run()) for slot in slots]
        started = tasks.spawn("start", _all_ready(slots))
        stopping = tasks.spawn("stop", stop.wait())
        await asyncio.wait({started, stopping, *runs}, return_when=asyncio.FIRST_COMPLETED)
        _raise_failure(runs)
        if not stop.is_set() and options.address_file is not None:
            host, port = split_address(listen)
            write_address_file(options.address_file, host, port)
        await asyncio.wait({stopping, *runs}, return_when=asyncio.FIRST_COMPLETED)
        _raise_failure(runs)
    finally:
        await asyncio.gather(*(slot.stop() for slot in slots), return_exceptions=True)
        await tasks.close()
        if metrics is not None:
            await metrics.stop()
        holder.close()


async def _all_ready(slots: "Sequence[_Slot]") -> None:
    for slot in slots:
        await slot.ready.wait()


def _raise_failure(runs: Sequence[asyncio.Task[None]]) -> None:
    for run in runs:
        if run.done():
            run.result()


class _Slot:
    """The place of one worker, whose processes follow each other."""

    def __init__(
        self,
        arguments: Sequence[str],
        index: int,
        drain_seconds: float,
        numbers: WorkerNumbers,
    ) -> None:
        self._numbers = numbers
        self._arguments = tuple(arguments)
        self._drain_seconds = drain_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self.index = index
        self.ready = asyncio.Event()
        """Set when the first process in this place serves."""

    async def run(self) -> None:
        """Start a worker, and another one whenever it ends, until stopped."""
        loop = asyncio.get_running_loop()
        short_lives = 0
        while not self._stopping:
            began = loop.time()
            code = await self._run_once()
            if self._stopping:
                break
            if code == _START_ERROR and not self.ready.is_set():
                raise StartError(f"Worker {self.index} could not start; its message is above.")
            short_lives = 0 if loop.time() - began > _WELL_SECONDS else short_lives + 1
            pause = restart_pause(short_lives)
            _LOG.error(
                "worker %d ended with code %s; a new one starts in %.1f s", self.index, code, pause
            )
            await asyncio.sleep(pause)

    async def stop(self) -> None:
        """End the worker: it drains, and is killed where it does not end."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(self._drain_seconds + _KILL_AFTER):
                    await process.wait()
            except TimeoutError:
                _LOG.error("worker %d does not end: killing it", self.index)
                process.kill()
                await process.wait()

    async def _run_once(self) -> int:
        # Workers get a session of their own: Ctrl-C goes to the parent only, which tells them.
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "podbay_inference_router",
            *self._arguments,
            *(["--replacement"] if self.ready.is_set() else []),
            stdout=asyncio.subprocess.PIPE,
            limit=_MAX_LINE,
            start_new_session=True,
        )
        if self._stopping:
            await self.stop()
        if process.stdout is not None:
            async for line in process.stdout:
                text = line.decode(errors="replace").strip()
                if text == READY_LINE:
                    self.ready.set()
                elif text.startswith(NUMBERS_PREFIX):
                    self._numbers.take(self.index, text.removeprefix(NUMBERS_PREFIX))
        code = await process.wait()
        self._numbers.end(self.index)
        return code
