"""The example services around real models, as processes of their own."""

import asyncio
import contextlib
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
from tests.support.pictures import picture_of
from tests.support.replica_http import Answer, Connection, connect

ROOT = Path(__file__).parents[2]
PYTHON_SOURCE = (ROOT / "client/podbay/demo/model_service.py").read_bytes()
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


@contextlib.asynccontextmanager
async def running(module: str) -> AsyncIterator[Connection]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
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


@pytest.fixture
async def magika() -> AsyncIterator[Connection]:
    async with running("podbay.demo.magika_service") as connection:
        yield connection


@pytest.fixture
async def ocr() -> AsyncIterator[Connection]:
    async with running("podbay.demo.ocr_service") as connection:
        yield connection


async def post(
    service: Connection, path: str, content: bytes, name: str, part: str = "file"
) -> Answer:
    boundary = "a-boundary-of-this-test"
    head = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="{part}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    content_type = f"multipart/form-data; boundary={boundary}"
    await service.send("POST", path, body, {"Content-Type": content_type})
    return await service.answer()


async def test_files_are_told_apart_by_their_bytes(magika: Connection) -> None:
    answer = await post(magika, "/classify", PYTHON_SOURCE, "no-hint")
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
        assert (await post(magika, "/classify", content, "x.py")).json()["label"] == label

    # What is not a file gets a clear refusal, and the service goes on.
    assert (await post(magika, "/classify", b"x", "x", part="upload")).json() == {
        "detail": "the form has no file part named 'file'"
    }
    refused = await magika.post("/classify", {"file": "x"})
    assert (refused.status, refused.json()) == (
        400,
        {"detail": "the request is not multipart/form-data"},
    )
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert (await magika.post("/classify", "oops", broken)).status == 400
    await magika.send("GET", "/classify")
    assert (await magika.answer()).status == 405
    assert (await post(magika, "/classify", PNG, "again.png")).json()["filename"] == "again.png"


async def test_a_picture_is_read_line_by_line(ocr: Connection) -> None:
    picture = picture_of("OPEN THE DOORS", "HAL 9000")
    answer = await post(ocr, "/read", picture, "doors.png")
    assert answer.status == 200
    found = answer.json()
    assert found["filename"] == "doors.png"
    assert [line["text"].upper() for line in found["lines"]] == ["OPEN THE DOORS", "HAL 9000"]
    for line in found["lines"]:
        assert 0.7 < line["score"] <= 1
        assert [len(corner) for corner in line["box"]] == [2, 2, 2, 2]

    assert (await post(ocr, "/read", picture_of(""), "empty.png")).json()["lines"] == []
    for content in (b"", b"no picture", picture[:100]):
        refused = await post(ocr, "/read", content, "x.png")
        assert (refused.status, refused.json()) == (
            422,
            {"detail": "the file is not a picture that can be read: send a whole PNG or JPEG"},
        )


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


def as_main(module: str) -> str:
    return f"import runpy; runpy.run_module('podbay.demo.{module}', run_name='__main__')"


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("magika_service", "magika", "demo"),
        ("magika_service", "starlette", "demo"),
        ("magika_service", "onnxruntime", "demo"),
        ("ocr_service", "rapidocr", "ocr"),
        ("ocr_service", "uvicorn", "ocr"),
    ],
)
def test_without_the_extra_it_says_so_in_one_line(module: str, missing: str, extra: str) -> None:
    done = run(f"import sys; sys.modules[{missing!r}] = None; {as_main(module)}")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert missing in done.stderr
    assert f'pip install "podbay[{extra}]"' in done.stderr


def test_a_port_that_is_none_is_refused() -> None:
    done = run(as_main("magika_service"), PORT="http")
    assert done.returncode == 64
    assert done.stderr == "PORT is 'http', not a port\n"


def test_a_model_that_cannot_be_loaded_ends_the_process() -> None:
    program = (
        "import onnxruntime\n"
        "def fail(*args, **options): raise RuntimeError('the weights are gone')\n"
        "onnxruntime.InferenceSession = fail\n"
        f"{as_main('magika_service')}"
    )
    done = run(program, PORT="0")
    assert done.returncode == 1
    assert "the model cannot be loaded: RuntimeError: the weights are gone" in done.stderr
