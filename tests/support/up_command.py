"""`podbay` as people run it, on a data folder of a test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from podbay.cli.root import cli
from podbay.local.processes import find_by_environment
from podbay.local.state import DataDir, UpRecord
from tests.support.eventually import eventually_sync

FREE_PORTS = (
    *("--registry-port", "0"),
    *("--session-manager-port", "0"),
    *("--inference-router-port", "0"),
)
UP_SECONDS = 60.0


# No setting of whoever runs the tests.
_NONE: dict[str, str | None] = dict.fromkeys(
    ("PODBAY_API_ENDPOINT", "PODBAY_API_TOKEN", "PODBAY_DATA_DIR")
)


def _without_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _NONE}


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


class Podbay:
    """Runs `podbay` with a data folder.

    Args:
        folder: The data folder.
    """

    def __init__(self, folder: Path) -> None:
        self.data = DataDir(folder)
        self._settings = {"PODBAY_DATA_DIR": str(folder)}

    def run(self, *arguments: str, stdin: str = "") -> Done:
        """Run a command to its end, in this process: it starts faster than one of its own."""
        result = CliRunner().invoke(cli, arguments, input=stdin, env={**_NONE, **self._settings})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    def ok(self, *arguments: str, stdin: str = "") -> str:
        """Run a command that must work, and return what it wrote to stdout."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str, stdin: str = "") -> Any:
        """Run a command that must work with --json, and return what it wrote."""
        # Before the command of a service, which may have an option of the same name.
        end = arguments.index("--") if "--" in arguments else len(arguments)
        return json.loads(self.ok(*arguments[:end], "--json", *arguments[end:], stdin=stdin))

    def start_detached(self, *options: str) -> str:
        """Start `podbay up` in the background on free ports, and return what it told."""
        done = subprocess.run(
            (sys.executable, "-m", "podbay.cli", "up", "--detach", *FREE_PORTS, *options),
            capture_output=True,
            text=True,
            env={**_without_settings(), **self._settings},
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert f"PODBAY_API_ENDPOINT={self.record().service('registry').endpoint}" in done.stdout
        assert f"cat {self.data.admin_token_file}" in done.stdout
        return done.stderr

    def launch(self) -> subprocess.Popen[str]:
        """Start `podbay up` in the foreground on free ports."""
        return subprocess.Popen(
            (sys.executable, "-m", "podbay.cli", "up", *FREE_PORTS),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**_without_settings(), **self._settings},
            start_new_session=True,
        )

    def start(self) -> subprocess.Popen[str]:
        """Start `podbay up` in the foreground on free ports, and return when it is healthy."""
        process = self.launch()

        def healthy() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"podbay up ended:\n{process.communicate()[0]}")
            record = self.data.read_record()
            return record is not None and record.state == "running"

        eventually_sync(healthy, "podbay up is healthy", timeout=UP_SECONDS)
        return process

    def record(self) -> UpRecord:
        """Return what up.json says."""
        record = self.data.read_record()
        assert record is not None
        return record

    def processes(self) -> list[int]:
        """Return the ids of all processes that `podbay up` started, replicas included."""
        return [identity.pid for identity in find_by_environment(self.data.mark)]
