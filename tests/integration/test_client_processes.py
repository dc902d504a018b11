"""What takes processes: a router that is killed, an interrupt, the cost of an import."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from podbay import AsyncClient, errors
from podbay.v1 import registry_service_pb2 as registry
from tests.support.client_faces import AsyncFace, SyncFace
from tests.support.eventually import eventually, eventually_sync
from tests.support.fake_router import FakeStream
from tests.support.fake_services import FakeInstallation


@pytest.fixture(params=[SyncFace, AsyncFace], ids=["sync", "async"])
def face(request: Any) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def fake() -> Iterator[FakeInstallation]:
    made = FakeInstallation()
    made.start()
    yield made
    made.stop()


def _start(port: int) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.fake_router_process", str(port)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_killed_router_fails_only_what_was_in_flight(face: Any, fake: FakeInstallation) -> None:
    router, port = _start(0)
    fake.registry.handlers["GetInstallation"] = lambda request, context: (
        registry.GetInstallationResponse(inference_router_endpoint=f"127.0.0.1:{port}")
    )
    done: list[Any] = []
    failed: list[Exception] = []
    stop = threading.Event()
    assert router.stdout is not None
    with face.client(fake.registry.address) as client:
        calls = client.inferencesessions.client("s1", "token", endpoint="generate")

        def hold() -> None:
            with pytest.raises(errors.ConnectionLostError, match="in flight"):
                calls.infer("hold")
            done.append("held")

        def traffic() -> None:
            while not stop.is_set():
                try:
                    done.extend(calls.infer(1))
                except errors.PodbayError as error:
                    failed.append(error)

        threads = [threading.Thread(target=target) for target in (hold, traffic, traffic)]
        for thread in threads:
            thread.start()
        assert router.stdout.readline() == "held\n"
        try:
            for _ in range(3):
                count = len(done)
                eventually_sync(lambda seen=count: len(done) > seen + 20, "traffic")
                _kill(router)
                router, _ = _start(port)
            count = len(done)
            eventually_sync(lambda: len(done) > count + 20, "traffic after the last kill")
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
            _kill(router)
    assert "held" in done
    # Each kill may fail what each of the two threads had in flight, and nothing else.
    assert len(failed) <= 6
    assert all(isinstance(error, errors.ConnectionLostError) for error in failed)


def test_an_interrupt_cancels_the_call_and_leaves(fake: FakeInstallation) -> None:
    script = (
        "import sys\n"
        "from podbay import Client\n"
        "with Client(sys.argv[1], 'token') as client:\n"
        "    calls = client.inferencesessions.client('s', 't', endpoint='e')\n"
        "    try:\n"
        "        calls.infer({})\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted', flush=True)\n"
        "        sys.stdin.readline()\n"
    )
    fake.router.on_call = lambda stream, call: None
    cancelled = threading.Event()

    def on_cancel(_stream: FakeStream, _call_id: int) -> None:
        cancelled.set()

    fake.router.on_cancel = on_cancel
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, fake.registry.address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        eventually_sync(lambda: fake.router.calls, "the call at the router")
        process.send_signal(signal.SIGINT)
        assert cancelled.wait(30)
        out, err = process.communicate("\n", timeout=30)
    finally:
        process.kill()
    assert (out, err, process.returncode) == ("interrupted\n", "", 0)


def test_a_client_that_is_never_closed_ends_with_its_process(fake: FakeInstallation) -> None:
    script = (
        "import sys\n"
        "from podbay import Client\n"
        "client = Client(sys.argv[1], 'token')\n"
        "calls = client.inferencesessions.client('s', 't', endpoint='e')\n"
        "print(calls.infer({}))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-c", script, fake.registry.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        # One that does not end tells what its threads do.
        process.send_signal(signal.SIGABRT)
        out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("[{}]\n", "", 0)


_FORKING = """
import asyncio, os, sys
from podbay import AsyncClient, Client, errors

def attempt(call):
    try:
        return call()
    except errors.PodbayError as error:
        return f"{error.reason}: {error.message}"

def in_child(*calls):
    if (child := os.fork()) == 0:
        for call in calls:
            print(attempt(call), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

def made():
    with Client(sys.argv[1], "token", timeout=20) as client:
        return client.inferencesessions.client("s", "t", endpoint="e").infer("child", timeout=20)

async def made_async():
    async with AsyncClient(sys.argv[1], "token", timeout=20) as client:
        calls = client.inferencesessions.client("s", "t", endpoint="e")
        return await calls.infer("child", timeout=20)

in_child(made)
client = Client(sys.argv[1], "token")
calls = client.inferencesessions.client("s", "t", endpoint="e")
print(calls.infer("parent"), flush=True)
many = calls.infer_many(["parent"] * 3, max_in_flight=1)
next(many)
in_child(
    lambda: calls.infer("child"),
    lambda: list(many),
    lambda: client.models.get("m"),
    client.close,
    made,
    lambda: asyncio.run(made_async()),
)
print([result.items for result in many], calls.infer("parent"), flush=True)
client.close()
in_child(made)
"""


def _run_forking(script: str, address: str, supported: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", script, address],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": supported},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_fork_leaves_clients_to_the_parent_and_says_so(fake: FakeInstallation) -> None:
    lines = _run_forking(_FORKING, fake.registry.address, "0")
    left = "CANCELLED: The client belongs to the process that this one was forked from"
    no_grpc = "SERVICE_UNREACHABLE: This process was forked after its parent had made calls"
    expected = [
        "['child']",  # the parent had not made any call
        "['parent']",
        *[left] * 3,
        "None",  # to close what is the parent's does nothing
        *[no_grpc] * 2,
        "[['parent'], ['parent']] ['parent']",
        no_grpc,
    ]
    assert len(lines) == len(expected), lines
    for line, beginning in zip(lines, expected, strict=True):
        assert line.startswith(beginning)


@pytest.mark.parametrize("supported", ["0", "1"])
def test_who_has_grpc_go_on_in_children_may_try(fake: FakeInstallation, supported: str) -> None:
    script = (
        "import os, sys\n"
        "from podbay import Client\n"
        "from podbay._core import forks\n"
        "Client(sys.argv[1], 'token').installation()\n"
        "if (child := os.fork()) == 0:\n"
        "    try:\n"
        "        forks.use_grpc()\n"
        "        print('may', flush=True)\n"
        "    except Exception as error:\n"
        "        print(error.reason, flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
    )
    lines = _run_forking(script, fake.registry.address, supported)
    assert lines == (["may"] if supported == "1" else ["SERVICE_UNREACHABLE"])


def test_a_forgotten_session_client_ends_its_stream(fake: FakeInstallation) -> None:
    with SyncFace().client(fake.registry.address) as client:
        calls = client.inferencesessions.client("s1", "token", endpoint="generate")
        assert calls.infer(1) == [1]
        del calls
        assert fake.router.streams[0].ended.wait(30)


@pytest.fixture
def quick_collection() -> Iterator[None]:
    """Keep the collector from looking at what other tests have left, again and again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("quick_collection")
async def test_forgotten_clients_of_a_loop_end_their_streams(fake: FakeInstallation) -> None:
    client = AsyncClient(fake.registry.address, "token")
    # More than the fake router can serve at once.
    for number in range(80):
        calls = client.inferencesessions.client("s1", "token", endpoint="generate")
        assert await calls.infer(number) == [number]
        del calls
        gc.collect()
        ended = fake.router.streams[number].ended
        await eventually(ended.is_set, "the stream's end")
    del client
    gc.collect()
    current = asyncio.current_task()
    await eventually(lambda: asyncio.all_tasks() == {current}, "no task is left")


def test_a_client_of_another_event_loop_says_so(fake: FakeInstallation) -> None:
    async def first() -> tuple[AsyncClient, Any]:
        client = AsyncClient(fake.registry.address, "token")
        calls = client.inferencesessions.client("s1", "token", endpoint="generate")
        assert await calls.infer(1) == [1]
        return client, calls

    client, calls = asyncio.run(first())

    async def second() -> None:
        fresh = client.inferencesessions.client("s1", "token", endpoint="generate")
        for call in (
            lambda: calls.infer(2),
            lambda: fresh.infer(2),
            lambda: anext(calls.stream(2)),
            lambda: anext(calls.infer_many([2])),
            lambda: client.models.get("m"),
        ):
            with pytest.raises(errors.InvalidRequestError, match="another event loop"):
                await call()
        with pytest.raises(errors.InvalidRequestError, match="not JSON"):
            await calls.infer({1})
        await calls.close()
        await client.close()

    asyncio.run(second())


def test_import_podbay_imports_nothing_heavy() -> None:
    script = (
        "import sys, json\n"
        "import podbay\n"
        "print(json.dumps([m for m in ('grpc', 'pydantic', 'google.protobuf', 'asyncio')"
        " if m in sys.modules]))\n"
        "import podbay.errors\n"
        "print(json.dumps([m for m in ('grpc', 'pydantic') if m in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[], []]
