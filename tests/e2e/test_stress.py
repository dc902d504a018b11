"""Event loops of gRPC, blocking clients and mocks in one process: no call is lost or disturbed.

Two event loops of gRPC in one process disturb each other (a known defect of it); the local platform
keeps its services out of the user's process for that reason.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# All of them where nothing may be left out: they take half a minute on two cores.
CALLS = 102_000 if os.environ.get("PODBAY_TEST_REQUIRE_ALL") == "1" else 10_200


@pytest.mark.timeout(600)
def test_many_calls_beside_a_local_platform(tmp_path: Path):
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error"),
            *("-m", "tests.support.local_stress", str(tmp_path / "root"), str(CALLS)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (0, f"{CALLS}\n")
