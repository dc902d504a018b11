"""Real Docker Engines, several side by side on this machine, each of them a node.

One containerd, and a dockerd with a bridge for each engine. Containers survive the death of their
dockerd, as on a node with live-restore. What a crashed run left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import docker
import psutil

from podbay_session_manager.declared_nodes import DeclaredGpu, DeclaredNode
from tests.support.docker.leftovers import remove_leftovers
from tests.support.docker.slots import Slot, one_at_a_time, take_slot

_START_SECONDS = 30.0


# Each engine has so many times 256 addresses of the slot's 65536.
_STRIDE = 16
_MOST = 256 // _STRIDE


class Engine:
    """One engine.

    Args:
        slot: Where it lives.
        index: Which of the slot's engines it is.
        containerd: The socket of the slot's containerd.
        disk_bytes: The size of its disk; 0 for that of the machine.
        gpus: Whether it accepts requests for GPUs.
        networks: Whether it has addresses of its own for networks.
        options: Further options of dockerd.
    """

    def __init__(
        self,
        slot: Slot,
        index: int,
        containerd: Path,
        *,
        disk_bytes: int = 0,
        gpus: bool = True,
        networks: bool = True,
        options: Sequence[str] = (),
    ) -> None:
        self._networks = networks
        self._slot = slot
        self._gpus = gpus
        self._index = index
        self._containerd = containerd
        self._disk_bytes = disk_bytes
        self._options = tuple(options)
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = slot.folder / f"n{index}"
        self.more_subnets = f"{slot.network}.{index * _STRIDE + 8}.0/21"
        """Addresses that nothing else on this machine has."""
        self.socket = self.folder / "docker.sock"
        self.bridge = f"{slot.bridge_prefix}{index}"

    @property
    def url(self) -> str:
        """Its address."""
        return f"unix://{self.socket}"

    @property
    def subnet(self) -> str:
        """All its addresses, its own and those of its containers."""
        return f"{self._slot.network}.{self._index * _STRIDE}.0/20"

    @property
    def pid(self) -> int:
        """The process id of its dockerd."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What its dockerd wrote."""
        return (self.folder / "dockerd.log").read_text(errors="replace")

    def node(
        self, name: str = "", *, address: str = "", gpus: tuple[DeclaredGpu, ...] = ()
    ) -> DeclaredNode:
        """Return it as a declared node."""
        return DeclaredNode(
            name=name or f"n{self._index}", engine=self.url, address=address, gpus=gpus
        )

    def client(self) -> docker.APIClient:
        """Return a client of one's own; close it."""
        return docker.APIClient(base_url=self.url, version="auto", timeout=60)

    @property
    def _path(self) -> str:
        own = os.environ["PATH"]
        return f"{self._slot.folder}/bin:{own}" if self._gpus else own

    def start(self) -> None:
        """Start its dockerd, and return when it answers."""
        with one_at_a_time():
            if self._process is not None and self._process.poll() is None:
                raise RuntimeError("this engine's dockerd runs: what runs beside it is never ended")
            self._start()

    def _start(self) -> None:
        first = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        network = f"{self._slot.network}.{self._index * _STRIDE}"
        if first:
            self._prepare_disk()
            _run("ip", "link", "add", self.bridge, "type", "bridge")
            _run("ip", "addr", "add", f"{network}.1/24", "dev", self.bridge)
            _run("ip", "link", "set", self.bridge, "up")
            (self.folder / "daemon.json").write_text("{}")
        namespace = f"{self._slot.name}-n{self._index}"
        pool = 20 if self._networks else 27
        with (self.folder / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "dockerd",
                    f"--config-file={self.folder}/daemon.json",
                    f"--containerd={self._containerd}",
                    f"--containerd-namespace={namespace}",
                    f"--containerd-plugins-namespace={namespace}-plugins",
                    f"--data-root={self.folder}/data",
                    f"--exec-root={self.folder}/exec",
                    f"--pidfile={self.folder}/pid",
                    f"--host={self.url}",
                    f"--bridge={self.bridge}",
                    # Of a pool that overlaps with the bridge's addresses nothing is given.
                    f"--default-address-pool=base={network}.0/{pool},size=27",
                    f"--cgroup-parent=/{self._slot.name}/n{self._index}",
                    "--exec-opt=native.cgroupdriver=cgroupfs",
                    "--storage-driver=overlay2",
                    "--live-restore",
                    "--shutdown-timeout=1",
                    "--max-download-attempts=1",
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": self._path},
                start_new_session=True,
            )
        self._await_answer()

    def _await_answer(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dockerd did not start:\n{self.log[-4000:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2)
            try:
                connection.connect(str(self.socket))
                connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: x\r\n\r\n")
                return b" 200 " in connection.recv(64)
            except OSError:
                return False

    def _prepare_disk(self) -> None:
        data = self.folder / "data"
        data.mkdir()
        on_overlay = (
            "overlay"
            in subprocess.run(
                ["stat", "-f", "-c", "%T", str(data)], capture_output=True, text=True, check=True
            ).stdout
        )
        size = self._disk_bytes or (4 << 30 if on_overlay else 0)
        if size:
            _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(data))

    def kill(self) -> None:
        """Kill its dockerd; containers go on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Stop its dockerd in its tracks: it accepts connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let its dockerd go on."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill its dockerd and start another one; containers go on.

        Not while it makes or removes a network: one of 20.10 does not start again after that
        ("index out of range" in reservePools), which nobody but an operator can mend.
        """
        self.kill()
        self.start()

    def ensure_up(self) -> None:
        """See to it that its dockerd runs and answers, whatever a test did."""
        assert self._process is not None
        if self._process.poll() is not None:
            self.start()
            return
        with contextlib.suppress(ProcessLookupError):
            self.resume()
        self._await_answer()


class Machine:
    """Engines of one test run, and what they share."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.engines: list[Engine] = []
        self._containerd_socket = slot.folder / "containerd.sock"
        self._prepare_hooks()
        self._containerd = self._start_containerd()

    def add(
        self,
        *,
        disk_bytes: int = 0,
        gpus: bool = True,
        networks: bool = True,
        options: Sequence[str] = (),
    ) -> Engine:
        """Start one more engine."""
        if len(self.engines) >= _MOST:
            raise RuntimeError(f"a machine has addresses for {_MOST} engines; share them")
        engine = Engine(
            self.slot,
            len(self.engines),
            self._containerd_socket,
            disk_bytes=disk_bytes,
            gpus=gpus,
            networks=networks,
            options=options,
        )
        self.engines.append(engine)
        engine.start()
        return engine

    def next_address(self) -> str:
        """Return the address that the engine which is added next has on its bridge."""
        return f"{self.slot.network}.{len(self.engines) * _STRIDE}.1"

    def stop(self) -> None:
        """End the daemons; what else is left of the slot is removed by its name."""
        for engine in self.engines:
            engine.kill()
        self._containerd.kill()
        self._containerd.wait()

    def _prepare_hooks(self) -> None:
        # By this program dockerd decides whether it can give GPUs to containers. This one does
        # nothing: containers get the variables that name their GPUs, and no devices.
        hook = self.slot.folder / "bin" / "nvidia-container-runtime-hook"
        hook.parent.mkdir()
        hook.write_text("#!/bin/sh\nexit 0\n")
        hook.chmod(0o755)

    def _start_containerd(self) -> subprocess.Popen[bytes]:
        folder = self.slot.folder
        config = folder / "containerd.toml"
        config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        with (folder / "containerd.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    "containerd",
                    f"--config={config}",
                    f"--root={folder}/containerd",
                    f"--state={folder}/run",
                    f"--address={self._containerd_socket}",
                    "--log-level=warn",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}"},
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._containerd_socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "containerd.log").read_text()[-4000:])
            time.sleep(0.02)
        return process


@contextlib.contextmanager
def machine(engines: int = 3) -> Iterator[Machine]:
    """Run engines; afterwards nothing of them is left."""
    clean_up_after_crashes()
    with one_at_a_time():
        slot, _ = take_slot()
    made: Machine | None = None
    try:
        made = Machine(slot)
        for _ in range(engines):
            made.add()
        yield made
    finally:
        if made is not None:
            made.stop()
        with one_at_a_time():
            remove_leftovers(slot)


def clean_up_after_crashes() -> None:
    """Remove what runs left behind that ended without cleaning up."""
    with one_at_a_time():
        mine, stale = take_slot()
        shutil.rmtree(mine.folder)
        for slot in stale:
            remove_leftovers(slot)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _status(machine: Machine) -> str:
    """Return a line for each engine."""
    return json.dumps({e.url: psutil.Process(e.pid).status() for e in machine.engines}, indent=2)


if __name__ == "__main__":
    # Engines by hand: they run until this ends.
    with machine(int(sys.argv[1]) if len(sys.argv) > 1 else 1) as running:
        print(_status(running))
        signal.pause()
