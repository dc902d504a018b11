"""Sessions come and go for a day of the clock: what is kept of them, and memory, stay bounded.

`PODBAY_DAY_CYCLES` says how many come and go in that day: 24 by default, 1,440 in `make day`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import urllib.request
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest

from podbay.v1 import session_manager_service_pb2 as pb
from podbay_kit.clock import SystemClock
from tests.support.eventually import eventually
from tests.support.session_manager import Rig, session_manager

CYCLES = int(os.environ.get("PODBAY_DAY_CYCLES", "24"))
DAY = 24 * 3600.0
# Far fewer than sessions that came and went.
_MOST_ROWS = 8
# The audit log alone keeps what was done, for its own time: created, terminated, deleted.
_AUDITED = "audit_records"
_MOST_AUDITED = 3 * (CYCLES + 1)


class FastClock(SystemClock):
    """A clock that a test moves on; all its times move together."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.ahead)

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    async def sleep(self, seconds: float) -> None:
        until = self.monotonic() + seconds
        while self.monotonic() < until:  # noqa: ASYNC110 # time is moved by hand
            await asyncio.sleep(0.02)


def rows(folder: Path) -> dict[str, int]:
    """Return how many rows each table has."""
    (path,) = folder.glob("*.sqlite3")
    with closing(sqlite3.connect(path)) as store:
        names = [
            name
            for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if not name.startswith("sqlite_")
        ]
        return {
            name: store.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names
        }


async def cycle(rig: Rig, service: str) -> None:
    """Have a session come up, take a call, and go without a trace."""
    session = (await rig.create(service)).inferencesession.id
    (replica,) = (await rig.ready(session)).replicas
    request = urllib.request.Request(f"http://{replica.address}/infer", data=b'{"text": "x"}')
    with await asyncio.to_thread(urllib.request.urlopen, request, timeout=20) as answer:
        assert answer.status == 200
    await rig.terminate(session)
    await rig.call("DeleteInferenceSession", pb.DeleteInferenceSessionRequest(id=session))


@pytest.mark.timeout(30 + 10 * CYCLES)
async def test_a_day_of_sessions_leaves_nothing_that_grows(tmp_path: Path) -> None:
    clock, process = FastClock(), psutil.Process()
    async with session_manager(tmp_path, clock=clock, drivers=("inprocess",)) as rig:
        service = rig.registry.add(name="tests.support.replica_mocks.Sample")
        memory, files, tasks = [], [], []
        for number in range(CYCLES):
            await cycle(rig, service)
            clock.ahead += DAY / CYCLES
            if number in (CYCLES // 3, CYCLES - 1):
                gc.collect()
                memory.append(process.memory_info().rss)
                files.append(process.num_fds())
                tasks.append(len(asyncio.all_tasks()))
        # What is kept for a while is forgotten once that is over.
        clock.ahead += 8 * DAY
        await cycle(rig, service)

        def most() -> int:
            return max(count for name, count in rows(tmp_path).items() if name != _AUDITED)

        await eventually(lambda: most() <= _MOST_ROWS, "what was kept of the sessions is forgotten")
        kept = rows(tmp_path)

        def logs() -> int:
            # Folders go while they are walked through; os.walk passes over those.
            return sum(len(names) for _, _, names in os.walk(tmp_path / "replicas-inprocess"))

        await eventually(lambda: logs() <= 2 * _MOST_ROWS, "the logs of the sessions are removed")
    print(f"{CYCLES} cycles: {memory=} {files=} {tasks=} {kept=}")
    assert memory[1] - memory[0] < (24 << 20) + 4096 * CYCLES
    assert files[1] <= files[0] + 4
    assert tasks[1] <= tasks[0] + 4
    assert 0 < kept[_AUDITED] <= _MOST_AUDITED
