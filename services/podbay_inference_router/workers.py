"""Several workers on one port: started, watched, replaced, and stopped by one parent."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Sequence

from podbay_inference_router.exposition import MetricsServer, WorkerNumbers
from podbay_inference_router.leases import make_lease_file
from podbay_inference_router.router_id import RouterHome
from podbay_inference_router.slots import Slot
from podbay_inference_router.succession import Succession
from podbay_kit.ports import hold_port
from podbay_kit.process import Stop, write_address_file
from podbay_kit.starting import split_address
from podbay_kit.tasks import TaskSet

__all__ = ["supervise"]

_LOG = logging.getLogger(__name__)


async def supervise(
    arguments: Sequence[str],
    options: argparse.Namespace,
    workers: int,
    stop: Stop,
    home: RouterHome,
) -> None:
    """Run workers until asked to stop; one that dies is replaced, and SIGHUP renews all.

    Args:
        arguments: The command line, which the workers get, too.
        options: The same, parsed.
        workers: How many.
        stop: The wish to stop.
        home: The router's data directory.

    Raises:
        StartError: The address cannot be had, or a worker cannot start.
    """
    # Who is started by nobody is started again by nobody, and its workers end with it.
    restarted = options.exit_with_parent and home.folder is not None
    succession = Succession(home.folder) if restarted and home.folder is not None else None
    with contextlib.ExitStack() as stack:
        if succession is not None:
            stack.callback(succession.close)
        takes_over = succession is not None and succession.takes_over
        if takes_over:
            _LOG.info("taking over from the workers of a router that died")
        holder, listen = hold_port(options.listen, shared=takes_over)
        stack.callback(holder.close)
        leases = make_lease_file(
            None if succession is None else succession.leases, in_use=takes_over
        )
        stack.callback(leases.close)
        await _run(arguments, options, workers, stop, home, succession, listen, leases.fileno())


async def _run(
    arguments: Sequence[str],
    options: argparse.Namespace,
    workers: int,
    stop: Stop,
    home: RouterHome,
    succession: Succession | None,
    listen: str,
    leases: int,
) -> None:
    tasks = TaskSet()
    numbers = WorkerNumbers()
    descriptors = [leases]
    line: list[str] = []
    if succession is not None:
        descriptors.append(succession.fileno())
        line = ["--run-name", succession.run, "--outlive", str(os.getppid())]
    slots = [
        Slot(
            [
                *arguments,
                *("--listen", listen),
                "--exit-with-parent",
                *("--worker", str(index)),
                *("--lease-file", str(leases)),
                *("--router-id", home.router_id),
                *line,
            ],
            index,
            options.drain_seconds,
            numbers,
            descriptors,
            takes_over=succession is not None and succession.takes_over,
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
        renewal = asyncio.Event()
        tasks.spawn("renew-workers", _renew_all(slots, renewal))
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, renewal.set)
        await asyncio.wait({started, stopping, *runs}, return_when=asyncio.FIRST_COMPLETED)
        _raise_failure(runs)
        if not stop.is_set():
            if succession is not None:
                succession.serving()
            if options.address_file is not None:
                host, port = split_address(listen)
                write_address_file(options.address_file, host, port)
        await asyncio.wait({stopping, *runs}, return_when=asyncio.FIRST_COMPLETED)
        _raise_failure(runs)
    finally:
        await asyncio.gather(*(slot.stop() for slot in slots), return_exceptions=True)
        await tasks.close()
        if metrics is not None:
            await metrics.stop()


async def _all_ready(slots: Sequence[Slot]) -> None:
    for slot in slots:
        await slot.ready.wait()


async def _renew_all(slots: Sequence[Slot], wanted: asyncio.Event) -> None:
    """Renew the workers one after the other, whenever that is asked for."""
    while True:
        await wanted.wait()
        wanted.clear()
        _LOG.info("all workers are renewed, one after the other")
        for slot in slots:
            await slot.renew()
        _LOG.info("all workers were renewed")


def _raise_failure(runs: Sequence[asyncio.Task[None]]) -> None:
    for run in runs:
        if run.done():
            run.result()
