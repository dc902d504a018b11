"""`podbay demo` without a terminal: all of it works, and nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest


def marked(parent: Path) -> list[int]:
    """Return the processes of any demo's installation below a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            folder = process.environ().get("_PODBAY_UP_DATA_DIR", "")
        except (psutil.Error, OSError):
            continue  # it ended meanwhile, or belongs to somebody else
        if f"{parent}/podbay-demo-" in folder:
            found.append(process.pid)
    return found


@pytest.mark.timeout(180)
def test_the_demo_runs_through(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "podbay.cli", "demo"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    output = done.stdout
    for part in (
        "Open the pod bay doors, Hal!",
        "2 completions",
        "pieces",
        "mean score",
        "240 files, 0 errors",
        "calls/s",
        "kill -9",
        "a new replica is ready after",
        "no process is left",
        "All of it worked",
    ):
        assert part in output, f"{part!r} is missing in:\n{output}"
    assert "\x1b" not in output
    assert done.stderr == ""
    assert marked(tmp_path) == []
    assert list(tmp_path.glob("podbay-demo-*")) == []
