"""Following logs over restarts of the session manager, with times, on both faces."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from podbay import AsyncClient
from podbay.types import LogLine
from tests.support.eventually import eventually
from tests.support.platform import Platform

pytestmark = pytest.mark.timeout(180)

INTERFACE = {"endpoint": "e", "outputSchema": {"arrowSchema": ""}}

# Writes numbered lines, in two halves now and then, to its end.
COUNTER = """
import sys, threading, time, http.server, os

class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Ready)
threading.Thread(target=server.serve_forever, daemon=True).start()
number = 0
while True:
    sys.stdout.write("line ")
    if number % 10 == 0:
        sys.stdout.flush()
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    number += 1
    time.sleep(0.002)
"""


class Reader:
    """Follows a session's logs on the asynchronous face."""

    def __init__(self, lines: Any) -> None:
        self.lines: list[LogLine] = []
        self._source = lines
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for line in self._source:
            self.lines.append(line)


class SyncReader(Reader):
    """Likewise on the other."""

    async def _read(self) -> None:
        def read() -> None:
            for line in self._source:
                self.lines.append(line)

        await asyncio.to_thread(read)


def texts(lines: list[LogLine], replica: str) -> list[str]:
    return [line.text for line in lines if line.replica_id == replica]


async def kill_manager(platform: Platform, number: signal.Signals) -> None:
    victim = platform.service("session-manager")
    victim.send_signal(number)

    def again() -> bool:
        try:
            now = platform.service("session-manager")
            return now.pid != victim.pid and now.is_running()
        except (AssertionError, psutil.Error):
            return False

    await eventually(again, "the session manager is started again", timeout=60)


async def test_every_line_comes_once_over_restarts(tmp_path: Path) -> None:
    began = datetime.now(UTC)
    with Platform(tmp_path / "data") as platform:
        async with platform.async_client() as client:
            with platform.client() as sync:
                await follow_over_restarts(platform, client, sync, began)


async def follow_over_restarts(
    platform: Platform, client: AsyncClient, sync: Any, began: datetime
) -> None:
    account = (await client.installation()).account
    service = await client.inferenceservices.create_process(
        [sys.executable, "-c", COUNTER], INTERFACE, account=account, name="counter"
    )
    made = await client.inferencesessions.create(
        {"account": account, "inferenceService": service.id, "replicas": 2}
    )
    session_id = made.inferencesession.id
    await client.inferencesessions.wait_ready(session_id, timeout=60)
    readers = [
        Reader(client.inferencesessions.logs(session_id, follow=True)),
        Reader(client.inferencesessions.logs(session_id, follow=True, tail=0)),
        SyncReader(sync.inferencesessions.logs(session_id, follow=True)),
        SyncReader(sync.inferencesessions.logs(session_id, follow=True, tail=3)),
    ]

    async def more(count: int) -> None:
        wanted = [len(reader.lines) + count for reader in readers]
        await eventually(
            lambda: all(len(r.lines) >= w for r, w in zip(readers, wanted, strict=True)),
            "all readers read on",
            timeout=60,
        )

    await more(50)
    await kill_manager(platform, signal.SIGKILL)
    await more(50)
    await kill_manager(platform, signal.SIGTERM)
    await more(50)
    entries = await client.inferencesessions.workflow_logs(session_id, since="1h", limit=40)
    await client.inferencesessions.terminate(session_id)
    await asyncio.wait_for(asyncio.gather(*(reader.task for reader in readers)), 60)
    whole = [line async for line in client.inferencesessions.logs(session_id)]
    replicas = {line.replica_id for line in whole}
    # One that is asked to end takes its replicas with it, one that is killed does not.
    assert len(replicas) == 4
    for replica in replicas:
        written = texts(whole, replica)
        # The last one may have been cut off in the middle.
        assert written[:-1] == [f"line {number}" for number in range(len(written) - 1)]
        for reader in readers:
            read = texts(reader.lines, replica)
            assert read == written[len(written) - len(read) :], "a line is lost or came twice"
        for reader in (readers[0], readers[2]):
            assert len(texts(reader.lines, replica)) == len(written)
        times = [line.time for line in whole if line.replica_id == replica]
        assert all(a <= b for a, b in itertools.pairwise(times))
        assert began - timedelta(seconds=1) <= times[0] <= times[-1] <= datetime.now(UTC)
    assert len(entries.logs) == entries.totalLines == 40
    stamps = [entry.timestamp for entry in entries.logs]
    assert stamps == sorted(stamps)
    assert all(stamps)
    assert {entry.labels["replica"] for entry in entries.logs} <= replicas
    streamed = [
        entry.message async for entry in client.inferencesessions.stream_workflow_logs(session_id)
    ]
    assert sorted(streamed) == sorted(line.text for line in whole)
