"""Podbay for a benchmark: `podbay up` in a folder of its own, and sessions in it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from podbay import Client
from podbay.local.mocks import Echo
from podbay.types import ReplicaStatus

__all__ = ["ECHO_REPLICA", "installation", "processes", "session"]

ECHO_REPLICA = [sys.executable, "-m", "benchmarks.echo_replica"]

_ROOT = Path(__file__).resolve().parent.parent
_PODBAY = Path(sys.executable).with_name("podbay")


@contextlib.contextmanager
def installation(
    workers: int = 1, *, ended: Callable[[Path], None] | None = None
) -> Iterator[psutil.Process]:
    """Run `podbay up`, and set the environment so that clients find it; yield its process.

    Args:
        workers: How many processes the router has.
        ended: Given the folder of its data once it has ended, before the folder is removed.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PODBAY_DATA_DIR": folder, "PYTHONPATH": str(_ROOT)}
        ports = [
            "--registry-port=0",
            "--session-manager-port=0",
            "--inference-router-port=0",
        ]
        subprocess.run(
            [_PODBAY, "up", *ports, f"--workers={workers}", "--detach"],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        try:
            state = json.loads((Path(folder) / "up.json").read_text(encoding="utf-8"))
            addresses = {record["name"]: record["endpoint"] for record in state["services"]}
            os.environ["PODBAY_API_ENDPOINT"] = addresses["registry"]
            os.environ["PODBAY_API_TOKEN"] = (
                (Path(folder) / "admin-token").read_text(encoding="utf-8").strip()
            )
            yield psutil.Process(int(state["pid"]))
        finally:
            subprocess.run(
                [_PODBAY, "down"], env=environment, check=True, stdout=subprocess.DEVNULL
            )
            if ended is not None:
                ended(Path(folder))


def session(
    client: Client, command: Sequence[str], name: str, replicas: int = 1
) -> tuple[str, str, ReplicaStatus]:
    """Start a command as a session; return its id, a token, and the first replica."""
    service = client.inferenceservices.create_process(
        list(command),
        Echo().interface,
        account=client.installation().account,
        name=name,
    )
    made = client.inferencesessions.create(
        {"account": service.account, "inferenceService": service.id, "replicas": replicas}
    )
    session_id = made.inferencesession.id
    status = client.inferencesessions.wait_ready(session_id, timeout=60)
    return session_id, made.token, status.replicas[0]


def processes(up: psutil.Process, module: str) -> list[psutil.Process]:
    """Return the processes of an installation whose command line names a module."""
    return [
        process
        for process in up.children(recursive=True)
        if any(module in part for part in process.cmdline())
    ]
