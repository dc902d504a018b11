"""The systems that are measured: each is started, loaded, and stopped again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil

from benchmarks.environments import environment, pins_of
from benchmarks.figures import Sample
from benchmarks.installation import ECHO_REPLICA, installation, session
from benchmarks.loops import BEGIN
from podbay import Client

__all__ = ["PEERS", "PODBAY", "Peer", "Podbay", "Running", "System", "family"]

_ROOT = Path(__file__).resolve().parents[2]
_STOP_SECONDS = 20.0


class Running(NamedTuple):
    """A system that runs.

    Attributes:
        roots: Its processes, apart from their children.
        load: The command that loads it, which three more arguments complete.
    """

    roots: list[psutil.Process]
    load: list[str]

    def measure(self, characters: int, in_flight: int, seconds: float) -> Sample:
        """Load it, and look at what its processes used meanwhile.

        Args:
            characters: How long the text is.
            in_flight: How many calls are in flight.
            seconds: For how long.
        """
        command = [*self.load, str(characters), str(in_flight), str(seconds)]
        with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as loading:
            if loading.stdout is None:
                raise RuntimeError("the load has no output")
            if loading.stdout.readline().strip() != BEGIN:
                raise RuntimeError(f"the load of this command did not begin: {command}")
            before = _cpu(self.roots)
            sample = Sample(**json.loads(loading.stdout.readline()))
            used = _cpu(self.roots) - before
        return dataclasses.replace(sample, cpu=used, memory=_memory(self.roots))


class System(Protocol):
    """Something to measure."""

    @property
    def name(self) -> str:
        """Its name in the table."""
        ...

    def run(self) -> contextlib.AbstractContextManager[Running]:
        """Start it; the end of the context stops it."""
        ...


class Podbay(NamedTuple):
    """Podbay with one router worker and one replica, all in processes of their own."""

    name: str
    replica: list[str]

    @contextlib.contextmanager
    def run(self) -> Iterator[Running]:
        with installation() as up, Client() as client:
            session_id, token, replica = session(client, self.replica, "echo")
            roots = [up, psutil.Process(replica.process_id)]
            target = f"{session_id} {token} echo"
            yield Running(roots, [sys.executable, "-m", "benchmarks.peers.load_podbay", target])


class Peer(NamedTuple):
    """Another system, in an environment of its own.

    Attributes:
        name: Its name in the table.
        key: The name of its pins under requirements/peers, and of its environment.
        serve: The module that serves.
        load: The module that loads it.
        variables: Environment variables of the server.
    """

    name: str
    key: str
    serve: str
    load: str
    variables: Mapping[str, str] = {}

    def python(self) -> Path:
        """Return its interpreter, whose environment is made at first use."""
        return environment(f"peers/{self.key}", pins_of(f"peers/{self.key}.txt"))

    @contextlib.contextmanager
    def run(self) -> Iterator[Running]:
        port = _free_ports()
        variables = {**os.environ, **self.variables, "PORT": str(port), "PYTHONPATH": str(_ROOT)}
        python = str(self.python())
        with open(os.devnull, "wb") as nothing:
            server = psutil.Popen(
                [python, "-m", self.serve], cwd=_ROOT, env=variables, stdout=nothing, stderr=nothing
            )
        try:
            yield Running([server], [python, "-m", self.load, str(port)])
        finally:
            _stop(server)


MLSERVER = "MLServer (gRPC)"
PODBAY = [
    Podbay(
        "Podbay", [sys.executable, "-m", "podbay_kit.replica_server", "podbay.local.mocks.Echo"]
    ),
    Podbay("Podbay, lean replica", ECHO_REPLICA),
]
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
PEERS = [
    Peer(MLSERVER, "mlserver", "benchmarks.peers.serve_mlserver", "benchmarks.peers.load_mlserver"),
    Peer("BentoML", "bentoml", "benchmarks.peers.serve_bentoml", "benchmarks.peers.load_http"),
    Peer("Ray Serve", "ray", "benchmarks.peers.serve_ray", "benchmarks.peers.load_http", _QUIET),
]


def _free_ports() -> int:
    """Return a port that is free, as is the one after it."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with contextlib.suppress(OSError):
                second.bind(("127.0.0.1", port + 1))
                return port


def family(roots: list[psutil.Process]) -> list[psutil.Process]:
    """Return processes with all their descendants, each once."""
    found: dict[int, psutil.Process] = {}
    for root in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [root, *root.children(recursive=True)]:
                found[process.pid] = process
    return list(found.values())


def _cpu(roots: list[psutil.Process]) -> float:
    seconds = 0.0
    for process in family(roots):
        with contextlib.suppress(psutil.NoSuchProcess):
            seconds += sum(process.cpu_times()[:2])
    return seconds


def _memory(roots: list[psutil.Process]) -> float:
    """Return the bytes that processes hold, shared pages counted once."""
    held = 0.0
    for process in family(roots):
        with contextlib.suppress(psutil.NoSuchProcess):
            held += process.memory_full_info().pss
    return held


def _stop(server: psutil.Popen) -> None:
    processes = family([server])
    server.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(processes, _STOP_SECONDS)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, _STOP_SECONDS)
