"""Ctrl-C while calls run: the process ends at once, and the replica hears of it."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from podbay.v1 import registry_service_pb2 as registry
from tests.support.eventually import eventually
from tests.support.fake_services import FakeService
from tests.support.router_fakes import ReplicaCall
from tests.support.router_rig import Rig, running_rig

HEAD = """
import asyncio, sys
from podbay import AsyncClient, Client
client = Client(sys.argv[1], "token")
calls = client.inferencesessions.client("s", sys.argv[2], endpoint="x", timeout=600)
print("begins", flush=True)
"""
ASYNC_HEAD = """
import asyncio, sys
from podbay import AsyncClient
async def main():
    async with AsyncClient(sys.argv[1], "token") as client:
        calls = client.inferencesessions.client("s", sys.argv[2], endpoint="x", timeout=600)
        print("begins", flush=True)
"""
SCRIPTS = {
    "infer": (HEAD + "calls.infer({})", 1),
    "infer_many": (HEAD + "for _ in calls.infer_many([{}] * 9, max_in_flight=8): pass", 8),
    "stream": (HEAD + "for _ in calls.stream({}): pass", 1),
    "async infer": (ASYNC_HEAD + "        await calls.infer({})\nasyncio.run(main())", 1),
    "async infer_many": (
        ASYNC_HEAD
        + "        async for _ in calls.infer_many([{}] * 9, max_in_flight=8): pass\n"
        + "asyncio.run(main())",
        8,
    ),
}


@pytest.fixture
async def hanging() -> AsyncIterator[tuple[Rig, list[ReplicaCall]]]:
    """A router, and what its replica works on without end."""
    begun: list[ReplicaCall] = []

    async def hang(call: ReplicaCall) -> None:
        begun.append(call)
        await call.closed.wait()

    async with running_rig() as rig:
        await rig.session("s", hang)
        yield rig, begun


@pytest.fixture
def registry_address(hanging: Any) -> Iterator[str]:
    fake = FakeService(registry.DESCRIPTOR.services_by_name["RegistryService"])
    fake.handlers["GetInstallation"] = lambda request, context: registry.GetInstallationResponse(
        inference_router_endpoint=f"127.0.0.1:{hanging[0].port}"
    )
    fake.start()
    yield fake.address
    fake.stop()


@pytest.mark.parametrize("name", SCRIPTS)
async def test_an_interrupt_in_a_terminal(
    name: str, hanging: tuple[Rig, list[ReplicaCall]], registry_address: str
) -> None:
    rig, begun = hanging
    script, in_flight = SCRIPTS[name]
    controller, terminal = pty.openpty()
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        registry_address,
        rig.manager.token("s"),
        stdin=terminal,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # A session of its own, whose controlling terminal the first opened one becomes.
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
    )
    os.close(terminal)
    try:
        await eventually(lambda: len(begun) == in_flight, "the calls at the replica")
        # What the terminal does when somebody presses Ctrl-C.
        os.write(controller, b"\x03")
        _, stderr = await asyncio.wait_for(child.communicate(), 30)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        os.close(controller)
    assert child.returncode in (-signal.SIGINT, 1, 130), stderr
    assert stderr.count(b"KeyboardInterrupt") >= 1
    assert b"podbay-exchange" not in stderr, stderr.decode()
    await eventually(lambda: all(call.closed.is_set() for call in begun), "the replica's cancels")
    await rig.idle()
