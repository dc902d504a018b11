"""A service's process: its signals, its parent, its secrets, its errors at start."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from podbay_kit.process import (
    SettingsError,
    process_end,
    read_secret,
    write_address_file,
    write_private,
)

_SERVICE = """
import asyncio, sys
from podbay_kit.process import run, SettingsError

async def main(stop):
    if "--fail" in sys.argv:
        raise SettingsError("The setting is wrong. Do better.")
    print("up", flush=True)
    await stop.wait()
    print("draining", flush=True)
    await asyncio.sleep(3600 if "--stuck" in sys.argv else 0)

sys.exit(run(main, name="test", exit_with_parent="--child" in sys.argv))
"""


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", _SERVICE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(number):
    with start() as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
        assert out == "draining\n"
        assert process.returncode == 0


def test_a_second_signal_ends_it_at_once():
    with start("--stuck") as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "draining\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 128 + signal.SIGTERM


def test_a_wrong_setting_is_one_line_and_code_2():
    with start("--fail") as process:
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (2, "test: The setting is wrong. Do better.\n")


def test_what_callers_make_grpc_log_is_left_out():
    code = """
import asyncio, logging
from podbay_kit.process import run

async def main(stop):
    grpc = logging.getLogger("grpc._cython.cygrpc")
    try:
        raise KeyError("batch")
    except KeyError:
        grpc.exception("ExecuteBatchError raised in core by servicer method [/a/B]")
        grpc.exception("Unexpected [KeyError] raised by servicer method [/a/B]")
    grpc.error("Invalid encoding found in metadata: %s", b"a token")

run(main, name="test", exit_with_parent=False)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert "Unexpected [KeyError]" in done.stderr
    assert done.stderr.count("Traceback") == 1
    assert "a token" not in done.stderr


def test_it_ends_when_its_parent_is_killed():
    # The parent starts the service, tells its id, and is killed with -9.
    parent = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1], '--child'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(3600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent, _SERVICE], stdout=subprocess.PIPE, text=True
    ) as process:
        lines = {process.stdout.readline().strip(), process.stdout.readline().strip()}
        child = int(next(line for line in lines if line.isdecimal()))
        assert "up" in lines
        process.kill()
        assert process.stdout.read() == "draining\n"  # ends only when the child's end is closed
    deadline = time.monotonic() + 30
    while _alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_ends_when_its_parent_died_before_it_could_look():
    with subprocess.Popen([sys.executable, "-c", ""]) as parent:
        parent.wait(30)
    environment = {**os.environ, "_PODBAY_PARENT_PID": str(parent.pid)}
    command = [sys.executable, "-c", _SERVICE, "--child"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        output, _ = process.communicate(timeout=30)
    assert output.splitlines()[-1] == "draining"
    assert process.returncode == 0


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_secrets_must_be_private_and_long(tmp_path):
    path = tmp_path / "secret"
    with pytest.raises(SettingsError, match="cannot be read"):
        read_secret(path)
    write_private(path, "x" * 31)
    with pytest.raises(SettingsError, match="shorter than 32"):
        read_secret(path)
    write_private(path, "x" * 64 + "\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_secret(path) == "x" * 64
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_secret(path)


def test_address_file(tmp_path):
    write_address_file(tmp_path / "run" / "a.json", "::1", 7)
    assert (tmp_path / "run" / "a.json").read_text() == (
        f'{{"pid": {os.getpid()}, "address": "[::1]:7"}}'
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a.json"]


@pytest.mark.parametrize("told", [True, False])
async def test_another_processs_end_is_waited_for(monkeypatch, told):
    """Also where the system does not tell of it."""
    if not told:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:  # noqa: ASYNC220 # takes no time
        waiting = asyncio.ensure_future(process_end(other.pid, lambda: other.poll() is None))
        await asyncio.sleep(0)
        assert not waiting.done()
        other.kill()
        async with asyncio.timeout(30):
            await waiting
    # What has ended before, or whose id is another one's by now, is not waited for.
    async with asyncio.timeout(30):
        await process_end(other.pid, lambda: False)
