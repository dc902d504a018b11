"""The process form: what it prints, how it ends."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from podbay_kit.replica_server import (
    BIND_FAILED_EXIT_CODE,
    MOCK_FAILED_EXIT_CODE,
    MOCK_NOT_IMPORTABLE_EXIT_CODE,
    PORT_TAKEN_EXIT_CODE,
    USAGE_EXIT_CODE,
)
from tests.support.replica_http import connect

ROOT = Path(__file__).parents[2]
MODULE = "tests.support.replica_mocks"


@contextlib.asynccontextmanager
async def replica(*arguments: str, **environment: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "podbay_kit.replica_server",
        *arguments,
        cwd=ROOT,
        env={**os.environ, "PORT": "0", **environment},
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(*arguments: str, **environment: str) -> tuple[int | None, str]:
    async with replica(*arguments, **environment) as process:
        _, stderr = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode, stderr.decode()


async def port_of(process: Process) -> int:
    """Read the line that says where it is ready."""
    assert process.stderr is not None
    line = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
    match = re.search(r"is ready on http://127\.0\.0\.1:(\d+)$", line.strip())
    assert match, line
    return int(match[1])


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_until_a_signal_and_exits_0(stop: signal.Signals) -> None:
    async with replica("podbay.local.mocks.TextCompletion") as process:
        async with connect(await port_of(process)) as connection:
            answer = await connection.post("/generate", {"text": "Open the pod bay doors, Hal!"})
        assert answer.headers["content-type"] == "application/x-ndjson"
        items = answer.lines()
        assert len(items) == 2
        for item in items:
            assert item["text"].startswith("Open the pod bay doors, Hal! ")
        process.send_signal(stop)
        assert await asyncio.wait_for(process.wait(), 60) == 0


async def test_it_listens_on_the_port_it_is_given() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    async with replica(f"{MODULE}.Sample", PORT=str(port)) as process:
        assert await port_of(process) == port


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "text"),
    [
        (["no.such.Mock"], {}, MOCK_NOT_IMPORTABLE_EXIT_CODE, "there is no module 'no'"),
        ([f"{MODULE}.Nobody"], {}, MOCK_NOT_IMPORTABLE_EXIT_CODE, "has no 'Nobody'"),
        (
            ["tests.support.replica_broken_import.Mock"],
            {},
            MOCK_NOT_IMPORTABLE_EXIT_CODE,
            "No module named 'a_package_that_nobody_has'",
        ),
        ([f"{MODULE}.BadConstructor"], {}, MOCK_FAILED_EXIT_CODE, "the weights are gone"),
        (
            ["podbay.local.mocks.LateStart"],
            {"PODBAY_MOCK_START_SECONDS": "soon"},
            MOCK_FAILED_EXIT_CODE,
            "PODBAY_MOCK_START_SECONDS is 'soon', not a number",
        ),
        ([f"{MODULE}.Sample"], {"PORT": "http"}, USAGE_EXIT_CODE, "PORT is 'http'"),
        ([f"{MODULE}.Sample"], {"PORT": "65536"}, USAGE_EXIT_CODE, "from 0 to 65535"),
        ([f"{MODULE}.Sample"], {"PORT": "80.5"}, USAGE_EXIT_CODE, "not a whole number"),
        (
            [f"{MODULE}.Sample"],
            {"PODBAY_REPLICA_THREADS": "0"},
            USAGE_EXIT_CODE,
            "PODBAY_REPLICA_THREADS is '0'",
        ),
        (
            [f"{MODULE}.Sample"],
            {"PODBAY_REPLICA_STOP_GRACE": "nan"},
            USAGE_EXIT_CODE,
            "PODBAY_REPLICA_STOP_GRACE is 'nan'",
        ),
        ([], {}, USAGE_EXIT_CODE, "name one class"),
        (["a.B", "c.D"], {}, USAGE_EXIT_CODE, "name one class"),
        (["--fast"], {}, USAGE_EXIT_CODE, "name one class"),
        (
            [f"{MODULE}.Sample"],
            {"PODBAY_REPLICA_HOST": "192.0.2.1"},
            BIND_FAILED_EXIT_CODE,
            "cannot listen on port 0 of 192.0.2.1",
        ),
    ],
)
async def test_a_start_that_fails_says_so_in_one_line(
    arguments: list[str], environment: dict[str, Any], code: int, text: str
) -> None:
    returncode, stderr = await ended(*arguments, **environment)
    assert returncode == code
    assert text in stderr
    assert stderr.startswith("podbay replica: ")
    assert stderr.count("\n") == 1


async def test_a_taken_port_shows_before_the_class_is_built() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        returncode, stderr = await ended(f"{MODULE}.SlowConstructor", PORT=port)
    assert returncode == PORT_TAKEN_EXIT_CODE == 98
    assert stderr.startswith(f"podbay replica: port {port} of 127.0.0.1 is taken")
    assert stderr.count("\n") == 1


async def test_the_codes_are_those_that_others_know() -> None:
    assert MOCK_NOT_IMPORTABLE_EXIT_CODE == 78
    assert USAGE_EXIT_CODE == 64
    assert MOCK_FAILED_EXIT_CODE == 70
    assert BIND_FAILED_EXIT_CODE == 71


async def test_help() -> None:
    async with replica("--help") as process:
        stdout, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0
        assert b"PORT" in stdout


async def test_a_signal_while_the_class_is_built_exits_0() -> None:
    async with replica(f"{MODULE}.SlowConstructor") as process:
        assert await line_of(process) == "building"
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_a_signal_lets_a_call_finish(tmp_path: Path) -> None:
    until = tmp_path / "until"
    async with replica(f"{MODULE}.Announced") as process:
        async with connect(await port_of(process)) as connection:
            calling = asyncio.create_task(connection.post("/x", {"until": str(until)}))
            assert await line_of(process) == "running"
            process.terminate()
            assert process.stderr is not None
            assert b"stopping" in await asyncio.wait_for(process.stderr.readline(), 60)
            assert process.returncode is None
            until.touch()
            assert (await calling).json() == {"done": True}
        assert await asyncio.wait_for(process.wait(), 60) == 0


async def test_a_call_that_hangs_does_not_keep_the_process() -> None:
    async with replica(f"{MODULE}.Hanging", PODBAY_REPLICA_STOP_GRACE="0.1") as process:
        async with connect(await port_of(process)) as connection:
            await connection.send("POST", "/x", b"{}")
            assert await line_of(process) == "running"
            process.terminate()
            assert (await connection.answer()).status == 503
        _, stderr = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0
        assert b"a call did not end within 0.1 s and is dropped" in stderr
