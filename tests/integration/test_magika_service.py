"""The demo's service around a real model, as a process of its own."""

import asyncio
import json
import os
import re
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from podbay.demo.magika_service import OneThreadMagika
from tests.support.eventually import eventually
from tests.support.replica_http import Answer, Connection, connect

ROOT = Path(__file__).parents[2]
PYTHON_SOURCE = (ROOT / "client/podbay/demo/magika_service.py").read_bytes()
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63"
    "6060f8cf00000301010018dd8db00000000049454e44ae426082"
)


async def port_of(process: Process) -> int:
    assert process.stderr is not None
    while line := await asyncio.wait_for(process.stderr.readline(), 60):
        if match := re.search(rb"running on http://127\.0\.0\.1:(\d+)", line):
            return int(match[1])
    raise AssertionError("the service ended without listening")


@pytest.fixture
async def service() -> AsyncIterator[Connection]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "podbay.demo.magika_service",
        cwd=ROOT,
        env={**os.environ, "PORT": "0"},
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        port = await port_of(process)
        async with connect(port) as connection:

            async def ready() -> bool:
                await connection.send("GET", "/ready")
                answer = await connection.answer()
                assert answer.status in {200, 503}, answer
                return answer.status == 200

            await eventually(ready, "the model is loaded", timeout=90)
            yield connection
    finally:
        process.terminate()
        await asyncio.wait_for(process.communicate(), 60)


async def post(service: Connection, content: bytes, name: str, part: str = "file") -> Answer:
    boundary = "a-boundary-of-this-test"
    head = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="{part}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    content_type = f"multipart/form-data; boundary={boundary}"
    await service.send("POST", "/classify", body, {"Content-Type": content_type})
    return await service.answer()


async def test_files_are_told_apart_by_their_bytes(service: Connection) -> None:
    answer = await post(service, PYTHON_SOURCE, "no-hint")
    assert answer.status == 200
    found = answer.json()
    assert 0.9 < found.pop("score") <= 1
    assert found == {
        "label": "python",
        "description": "Python source",
        "mimeType": "text/x-python",
        "group": "code",
        "filename": "no-hint",
    }
    for content, label in [
        (PNG, "png"),
        (json.dumps({"key": list(range(200))}).encode(), "json"),
        (b"", "empty"),
    ]:
        assert (await post(service, content, "x.py")).json()["label"] == label

    # What is not a file gets a clear refusal, and the service goes on.
    assert (await post(service, b"x", "x", part="upload")).json() == {
        "detail": "the form has no file part named 'file'"
    }
    refused = await service.post("/classify", {"file": "x"})
    assert (refused.status, refused.json()) == (
        400,
        {"detail": "the request is not multipart/form-data"},
    )
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert (await service.post("/classify", "oops", broken)).status == 400
    await service.send("GET", "/classify")
    assert (await service.answer()).status == 405
    assert (await post(service, PNG, "again.png")).json()["filename"] == "again.png"


def test_the_model_uses_one_thread() -> None:
    session = OneThreadMagika()._onnx_session
    assert session.get_session_options().intra_op_num_threads == 1
    assert session.get_session_options().inter_op_num_threads == 1


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


AS_MAIN = "import runpy; runpy.run_module('podbay.demo.magika_service', run_name='__main__')"


@pytest.mark.parametrize("missing", ["magika", "starlette", "onnxruntime"])
def test_without_the_extra_it_says_so_in_one_line(missing: str) -> None:
    done = run(f"import sys; sys.modules[{missing!r}] = None; {AS_MAIN}")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert missing in done.stderr
    assert 'pip install "podbay[demo]"' in done.stderr


def test_a_port_that_is_none_is_refused() -> None:
    done = run(AS_MAIN, PORT="http")
    assert done.returncode == 64
    assert done.stderr == "podbay.demo.magika_service: PORT is 'http', not a port\n"


def test_a_model_that_cannot_be_loaded_ends_the_process() -> None:
    program = (
        "import onnxruntime\n"
        "def fail(*args, **options): raise RuntimeError('the weights are gone')\n"
        "onnxruntime.InferenceSession = fail\n"
        f"{AS_MAIN}"
    )
    done = run(program, PORT="0")
    assert done.returncode == 1
    assert "the model cannot be loaded: RuntimeError: the weights are gone" in done.stderr
