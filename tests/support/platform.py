"""A whole platform for a test: `podbay up` with ports and a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from podbay import AsyncClient, Client
from tests.support.eventually import eventually_sync

__all__ = ["RUNNING", "Platform"]

ROOT = Path(__file__).resolve().parents[2]

RUNNING: set[Platform] = set()
"""Those that run now: what they say is shown of a test that fails."""


@dataclass(eq=False)
class Platform:
    """`podbay up` as a child process.

    Use it as a context manager: the end is a SIGINT, as from Ctrl-C, and a check that no process
    is left.
    """

    data_dir: Path
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            code = self.stop()
        except subprocess.TimeoutExpired:
            self._kill_everything()
            raise
        finally:
            RUNNING.discard(self)
        if kind is None:
            assert code == 0, self.output()
            assert self.left_over() == []
        else:
            print(self.output())
            self._kill_everything()

    def start(self) -> None:
        """Start it, and return when it says that it runs."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._log = self.data_dir / "up-output.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "podbay.cli",
                    "up",
                    "--registry-port=0",
                    "--session-manager-port=0",
                    "--inference-router-port=0",
                    *self.arguments,
                ],
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    **self.environment,
                    "PODBAY_DATA_DIR": str(self.data_dir),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        eventually_sync(self._running, "podbay up runs", timeout=60)
        RUNNING.add(self)

    def _running(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"podbay up ended:\n{self.output()}"
        record = self.record(missing_is_none=True)
        return (
            record is not None
            and record["pid"] == self.process.pid
            and record["state"] == "running"
        )

    def stop(self, number: signal.Signals = signal.SIGINT, timeout: float = 60) -> int:
        """Send a signal, and return the exit code."""
        assert self.process is not None
        self._seen = self.family()
        self.process.send_signal(number)
        return self.process.wait(timeout)

    def left_over(self) -> list[str]:
        """Name the processes of the platform that still run after its end."""
        return [
            f"{process.pid}: {' '.join(process.cmdline())}"
            for process in self._seen
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        ] + [
            f"{process.pid}: {' '.join(process.info['cmdline'] or ())}"
            for process in psutil.process_iter(["cmdline"])
            if str(self.data_dir) in " ".join(process.info["cmdline"] or ())
        ]

    def family(self) -> list[psutil.Process]:
        """Return all processes of the platform: its own children, and replicas."""
        assert self.process is not None
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True), *self.replica_processes()]

    def replica_processes(self) -> list[psutil.Process]:
        """Return the processes of replicas: they have the session manager's mark in common."""
        found = []
        for process in psutil.process_iter():
            try:
                environment = process.environ()
            except psutil.Error:
                continue
            if "PODBAY_REPLICA_ID" in environment and str(self.data_dir) in str(environment):
                found.append(process)
        return found

    def record(self, *, missing_is_none: bool = False) -> Any:
        """Return what up.json says."""
        try:
            return json.loads((self.data_dir / "up.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            if missing_is_none:
                return None
            raise

    def service(self, name: str) -> psutil.Process:
        """Return the process of a service, as "registry"."""
        for record in self.record()["services"]:
            if record["name"] == name and record["pid"] is not None:
                return psutil.Process(record["pid"])
        raise AssertionError(f"{name} has no process now")

    def endpoint(self, name: str = "registry") -> str:
        """Return the address of a service."""
        for record in self.record()["services"]:
            if record["name"] == name:
                return str(record["endpoint"])
        raise AssertionError(f"no service {name}")

    @property
    def token(self) -> str:
        """The administrator's token."""
        return (self.data_dir / "admin-token").read_text(encoding="utf-8").strip()

    def settings(self) -> dict[str, str]:
        """Return the environment variables of a client."""
        return {"PODBAY_API_ENDPOINT": self.endpoint(), "PODBAY_API_TOKEN": self.token}

    def client(self, **options: Any) -> Client:
        """Return a client of the administrator."""
        return Client(self.endpoint(), self.token, **options)

    def async_client(self, **options: Any) -> AsyncClient:
        """Return an async client of the administrator."""
        return AsyncClient(self.endpoint(), self.token, **options)

    def log(self, name: str) -> str:
        """Return the log of a service."""
        path = self.data_dir / "logs" / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace")

    def output(self) -> str:
        """Return what it printed, and the end of each service's log."""
        parts = [self._log.read_text(encoding="utf-8", errors="replace")]
        for log in sorted((self.data_dir / "logs").glob("*.log")):
            parts.append(f"--- {log.name}")
            parts.append(log.read_text(encoding="utf-8", errors="replace")[-3000:])
        return "\n".join(parts)

    def _kill_everything(self) -> None:
        for process in getattr(self, "_seen", []):
            if process.is_running():
                process.kill()
