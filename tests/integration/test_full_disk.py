"""A full disk: what runs goes on, what is new says why it cannot start, and room is enough."""

from __future__ import annotations

import asyncio
import re
import sys
import urllib.request
from pathlib import Path

import pytest

from podbay_session_manager.drivers.process_tree import find_marked
from tests.support.router_process import free_port
from tests.support.session_manager import Rig, session_manager, until
from tests.support.small_disk import SmallDisk, small_disk

pytestmark = pytest.mark.needs_small_disk

_SCRIPT = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        verb, _, rest = self.path[1:].partition("/")
        if verb == "say":
            print(rest, flush=True)
        if verb == "exit":
            os._exit(int(rest))
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass
address = ("127.0.0.1", int(os.environ["PORT"]))
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""


async def get(port: int, path: str) -> None:
    """Tell a replica something."""

    def fetch() -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
            assert answer.status == 200

    await asyncio.to_thread(fetch)


def talker(rig: Rig) -> tuple[str, int]:
    """Add a service that says what it is told; return its id and its port."""
    port = free_port()
    service = rig.registry.add(command=[sys.executable, "-c", _SCRIPT], env={"PORT": str(port)})
    return service, port


async def said(rig: Rig, session: str, text: str) -> list[str]:
    """Wait for a line of the log; return all."""

    async def look() -> list[str] | None:
        lines = await rig.log(session)
        return lines if text in lines else None

    return await until(look)


async def check_full_disk(rig: Rig, disk: SmallDisk) -> None:
    service, port = talker(rig)
    session = (await rig.create(service)).inferencesession.id
    (replica,) = (await rig.ready(session)).replicas
    await get(port, "say/before")
    await said(rig, session, "before")
    disk.fill()

    # What runs goes on, and loses the rest of its lines.
    await get(port, "say/" + 20_000 * "x")
    # What is new says why it cannot start, and leaves no process.
    other, _ = talker(rig)
    failed = await rig.failed((await rig.create(other)).inferencesession.id)
    assert failed.status.reason == "DiskFull"
    assert "has no room left. Make some" in failed.status.message
    assert find_marked([item.id for item in failed.replicas]) == {}
    (same,) = (await rig.ready(session)).replicas
    assert (same.id, same.process_id) == (replica.id, replica.process_id)

    # With room the log goes on, and says how much of it is missing.
    disk.free()
    await get(port, "say/after")
    lines = await said(rig, session, "after")
    assert lines[0] == "before"
    missing = next(line for line in lines if line.startswith("[podbay: "))
    there = sum(len(line) + 1 for line in lines[1 : lines.index(missing)])
    lost = re.fullmatch(
        r"\[podbay: (\d+) bytes of the log are lost: no room on the disk\]", missing
    )
    assert lost is not None
    # Of the long line, with its end; what is there of it was given an end by the keeper.
    assert int(lost[1]) + max(0, there - 1) == 20_001
    await rig.ready((await rig.create(other)).inferencesession.id)

    # How a replica ended is known although nothing can be written any more.
    disk.fill()
    with pytest.raises(OSError, match="closed connection"):
        await get(port, "exit/7")

    async def ended() -> bool:
        found = [item for item in (await rig.status(session)).replicas if item.id == replica.id]
        return bool(found) and found[0].exit_code == 7

    await until(ended)

    disk.free()
    await rig.ready(session)


async def test_replicas_outlive_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "data" / "replicas", "256k") as disk:
        async with session_manager(tmp_path / "data") as rig:
            await check_full_disk(rig, disk)
