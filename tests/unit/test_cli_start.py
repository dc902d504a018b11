"""The command line as a process: quick, quiet and without colours where nobody watches."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("grpc", "pydantic", "rich", "google.protobuf", "psutil", "asyncio")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "sys.argv = ['podbay', '--help']\n"
        "from podbay.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as error:\n    assert error.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "demo" in done.stdout


def test_output_into_a_pipe_that_closes_is_quiet():
    command = f"{sys.executable} -m podbay.cli session --help | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_piped_output_has_no_colours():
    done = subprocess.run(
        [sys.executable, "-m", "podbay.cli", "infer", "x", "{"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "\x1b" not in done.stdout + done.stderr
