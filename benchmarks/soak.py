"""A soak: mixed calls for minutes, with cancels and replicas that die, and nothing may leak.

`make soak` runs ten minutes. Each of several clients makes whole and streamed calls, cancels some
of its streams, and is closed and made anew now and then; meanwhile a replica is killed every so
often. At the end no call may have been lost without a reason, the router must count nothing as
running, and its memory and open files must be where they were after the first part.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field

import psutil
import uvloop

from benchmarks.installation import ECHO_REPLICA, installation, processes, session
from podbay import AsyncClient, AsyncInferenceSessionClient, Client
from podbay.errors import PodbayError

__all__ = ["Outcome", "soak"]

_CLIENTS = 4
_IN_FLIGHT = 16
_CALLS_A_CLIENT = 2000
_PIECES = 20
_WARM_PART = 0.2
# What a killed replica takes with it. A call that it may have seen is not repeated.
_EXPECTED = {"REPLICA_CONNECTION_LOST", "REPLICA_UNREACHABLE", "SESSION_NOT_READY"}


@dataclass
class Outcome:
    """What a soak found.

    Attributes:
        calls: Calls that were answered.
        cancelled: Streams that were left before their end.
        failed: Calls that failed, by reason.
        wrong: Answers that were not what was asked for.
        kills: Replicas that were killed.
        memory: The router's bytes after the warm part, and at the end.
        files: Its open files likewise.
    """

    calls: int = 0
    cancelled: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    wrong: int = 0
    kills: int = 0
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def problems(self) -> list[str]:
        """Return what is not as it should be."""
        found = []
        unexpected = {name: n for name, n in self.failed.items() if name not in _EXPECTED}
        if unexpected or (self.failed and not self.kills):
            found.append(f"calls failed without a cause: {self.failed}")
        if self.wrong:
            found.append(f"{self.wrong} answers were wrong")
        if not self.calls:
            found.append("no call was answered")
        if self.memory[1] > self.memory[0] * 1.2 + (8 << 20):
            found.append(
                f"the router's memory grew from {self.memory[0]} to {self.memory[1]} bytes"
            )
        if self.files[1] > self.files[0] + _CLIENTS * _IN_FLIGHT:
            found.append(f"the router's open files grew from {self.files[0]} to {self.files[1]}")
        return found


class _Soak:
    """The clients, and the one who kills replicas."""

    def __init__(self, target: tuple[str, str], until: float, kill_every: float) -> None:
        self.outcome = Outcome()
        self._target = target
        self._until = until
        self._kill_every = kill_every
        self._random = random.Random(1)

    @property
    def _over(self) -> bool:
        return time.monotonic() >= self._until

    async def run(self, router: list[psutil.Process], seconds: float) -> None:
        async with AsyncClient() as client, asyncio.TaskGroup() as group:
            for _ in range(_CLIENTS):
                group.create_task(self._clients(client))
            group.create_task(self._kill(client))
            await asyncio.sleep(seconds * _WARM_PART)
            self._look(router)
        await asyncio.sleep(1.0)  # the connections of what was cancelled are being closed
        self._look(router)

    async def _clients(self, client: AsyncClient) -> None:
        """Use one session client after the other."""
        while not self._over:
            echo, pieces = (
                client.inferencesessions.client(*self._target, endpoint=endpoint, timeout=60)
                for endpoint in ("echo", "pieces")
            )
            left = iter(range(_CALLS_A_CLIENT))
            async with echo, pieces, asyncio.TaskGroup() as group:
                for _ in range(_IN_FLIGHT):
                    group.create_task(self._calls(echo, pieces, left))

    async def _calls(
        self,
        echo: AsyncInferenceSessionClient,
        pieces: AsyncInferenceSessionClient,
        left: object,
    ) -> None:
        for number in left:  # type: ignore[attr-defined] # shared, so that they end together
            if self._over:
                return
            try:
                if number % 3:
                    body = {"text": "x" * self._random.randrange(2000), "number": number}
                    self.outcome.wrong += await echo.infer(body) != [body]
                else:
                    await self._stream(pieces, leave=self._random.random() < 0.2)
                self.outcome.calls += 1
            except PodbayError as error:
                self.outcome.failed[error.reason] = self.outcome.failed.get(error.reason, 0) + 1

    async def _stream(self, pieces: AsyncInferenceSessionClient, *, leave: bool) -> None:
        count = 0
        async with contextlib.aclosing(pieces.stream({"n": _PIECES})) as stream:
            async for _ in stream:
                count += 1
                if leave and count == 3:
                    self.outcome.cancelled += 1
                    return
        self.outcome.wrong += count != _PIECES

    async def _kill(self, client: AsyncClient) -> None:
        """Kill a replica now and then, where another one is ready."""
        following = time.monotonic() + self._kill_every
        while not self._over:
            await asyncio.sleep(0.2)
            if time.monotonic() < following:
                continue
            status = await client.inferencesessions.status(self._target[0])
            ready = [replica.process_id for replica in status.replicas if replica.process_id]
            if len(ready) > 1:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._random.choice(ready), signal.SIGKILL)
                self.outcome.kills += 1
            following = time.monotonic() + self._kill_every

    def _look(self, router: list[psutil.Process]) -> None:
        self.outcome.memory.append(sum(process.memory_info().rss for process in router))
        self.outcome.files.append(sum(process.num_fds() for process in router))


def soak(seconds: float, kill_every: float) -> Outcome:
    """Run a soak against an installation of its own.

    Args:
        seconds: For how long.
        kill_every: Seconds between the deaths of replicas.
    """
    with installation() as up, Client() as client:
        session_id, token, _ = session(client, ECHO_REPLICA, "soak", replicas=2)
        running = _Soak((session_id, token), time.monotonic() + seconds, kill_every)
        uvloop.run(running.run(processes(up, "podbay_inference_router"), seconds))
        return running.outcome


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="(default: %(default)s)")
    parser.add_argument(
        "--kill-every", type=float, default=20, help="seconds (default: %(default)s)"
    )
    arguments = parser.parse_args()
    outcome = soak(arguments.seconds, arguments.kill_every)
    print(outcome)
    problems = outcome.problems()
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
