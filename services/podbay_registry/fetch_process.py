"""A process that fetches one model, as the registry sees it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from podbay_registry.fetch_plan import FetchFailure, FetchJob

__all__ = ["FetchedFile", "run_fetch"]

_MAX_LINE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file that the process has fetched.

    Attributes:
        path: Where it lies in the job's folder.
        sha256: What the source says it holds; None where it does not say.
    """

    path: str
    sha256: str | None


async def run_fetch(
    job: FetchJob,
    *,
    log: Callable[[str], Awaitable[None]],
    total: Callable[[int, int], Awaitable[None]],
) -> list[FetchedFile]:
    """Run the process to its end, and return the files that it fetched.

    Where the caller is cancelled, the process ends with all that it started.

    Args:
        job: What it does.
        log: Takes what it says.
        total: Takes the bytes and the number of files that there are, once they are known.

    Raises:
        FetchFailure: It failed.
        ServiceError: What `total` raises.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "podbay_registry.fetching",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        limit=_MAX_LINE,
    )
    assert process.stdin is not None  # noqa: S101 # a pipe was asked for
    assert process.stdout is not None  # noqa: S101 # the same
    assert process.stderr is not None  # noqa: S101 # the same
    errors = asyncio.create_task(_copy_lines(process.stderr, log), name="fetch-log")
    try:
        with suppress(ConnectionError):  # it has died; its exit code says more
            # Stays open: its end tells the process that the registry is gone.
            process.stdin.write(json.dumps(job.to_json()).encode() + b"\n")
            await process.stdin.drain()
        return await _outcome(process, process.stdout, log, total)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await _ended(process, errors)


async def _outcome(
    process: asyncio.subprocess.Process,
    events: asyncio.StreamReader,
    log: Callable[[str], Awaitable[None]],
    total: Callable[[int, int], Awaitable[None]],
) -> list[FetchedFile]:
    files: list[FetchedFile] = []
    while line := await events.readline():
        event: dict[str, Any] = json.loads(line)
        match event["event"]:
            case "total":
                await total(event["bytes"], event["files"])
            case "log":
                await log(event["text"])
            case "file":
                files.append(FetchedFile(event["path"], event["sha256"]))
            case "failed":
                raise FetchFailure(event["message"], transient=event["transient"])
            case "done":
                return files
    code = await process.wait()
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise FetchFailure(
        f"The process that fetched {how} before it was done; the log of the model has its last "
        "lines. Where the kernel killed it, memory may be short.",
        transient=code < 0,
    )


async def _copy_lines(stream: asyncio.StreamReader, log: Callable[[str], Awaitable[None]]) -> None:
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # longer than a line may be; the reader goes on after it
            continue
        if not line:
            return
        await log(line.decode(errors="replace").rstrip())


async def _ended(process: asyncio.subprocess.Process, errors: asyncio.Task[None]) -> None:
    """Wait for a process that was killed, and for the last of what it said."""
    if process.stdin is not None:
        process.stdin.close()
    await process.wait()
    done, _ = await asyncio.wait({errors}, timeout=1.0)
    if not done:
        errors.cancel()
    await asyncio.gather(errors, return_exceptions=True)
