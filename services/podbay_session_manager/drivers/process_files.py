"""What the process driver keeps on disk of a replica, so that another session manager goes on.

A replica's folder holds `launch.json` (what was to be started), `keeper.json` (which process keeps
it), what the keeper writes (`pid`, `exit`) and its log. A folder without `launch.json` is that of
a removed replica: only its log is left.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "ExitRecord",
    "KeeperRecord",
    "LaunchRecord",
    "ReplicaFolder",
    "begin_term",
    "present_term",
    "replica_folders",
]

# Beside the replicas' folders; keepers read it, too.
_TERM = "term"


@dataclass(frozen=True, slots=True)
class LaunchRecord:
    """What was to be started."""

    session_id: str
    port: int
    mock: bool


@dataclass(frozen=True, slots=True)
class KeeperRecord:
    """Which process keeps the replica."""

    pid: int
    identity: str
    """Tells it from other processes that have the same id later."""


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How the command ended."""

    code: int
    spawn_error: str
    """The name of the error where it could not be executed, as "ENOEXEC"; else empty."""


class ReplicaFolder:
    """The folder of one replica. Methods block: call them in threads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def replica_id(self) -> str:
        """The replica's id."""
        return self.path.name

    def begin(self, launch: LaunchRecord) -> None:
        """Make the folder and write down what is to be started.

        Raises:
            OSError: It cannot be written.
        """
        (self.path / "log").mkdir(parents=True, exist_ok=True, mode=0o700)
        self._write("launch.json", json.dumps(asdict(launch)))

    def keep(self, keeper: KeeperRecord) -> None:
        """Write down which process keeps the replica.

        Raises:
            OSError: It cannot be written.
        """
        self._write("keeper.json", json.dumps(asdict(keeper)))

    def launch(self) -> LaunchRecord | None:
        """Return what was to be started; None for a folder that holds only a log."""
        data = self._read_json("launch.json")
        return None if data is None else LaunchRecord(**data)

    def keeper(self) -> KeeperRecord | None:
        """Return which process keeps it; None where that was never written down."""
        data = self._read_json("keeper.json")
        return None if data is None else KeeperRecord(**data)

    def command_pid(self) -> int | None:
        """Return the process id of the command; None before it has one."""
        text = self._read("pid").strip()
        return int(text) if text else None

    def exit(self) -> ExitRecord | None:
        """Return how the command ended; None where that was not written down."""
        lines = self._read("exit").split()
        if not lines:
            return None
        return ExitRecord(int(lines[0]), lines[1] if len(lines) > 1 else "")

    def clear(self) -> None:
        """Forget everything but the log."""
        # launch.json first: half of this must not look like a replica that was never started.
        for name in ("launch.json", "keeper.json", "pid", "exit"):
            (self.path / name).unlink(missing_ok=True)
            (self.path / f"{name}.new").unlink(missing_ok=True)

    def delete(self) -> None:
        """Delete the folder with its log."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _write(self, name: str, text: str) -> None:
        temporary = self.path / f"{name}.new"
        temporary.write_text(text)
        temporary.replace(self.path / name)

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text()
        except FileNotFoundError:
            return ""

    def _read_json(self, name: str) -> dict[str, Any] | None:
        text = self._read(name)
        if not text:
            return None
        data: dict[str, Any] = json.loads(text)
        return data


def replica_folders(root: Path) -> list[ReplicaFolder]:
    """Return the folders of all replicas below `root`."""
    if not root.is_dir():
        return []
    return [ReplicaFolder(path) for path in sorted(root.iterdir()) if path.is_dir()]


def begin_term(root: Path, term: int) -> None:
    """Write down which term of leading the folder belongs to. No term ends a later one.

    Raises:
        OSError: It cannot be written.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    if present_term(root) < term:
        new = root / f"{_TERM}.{term}.new"
        new.write_text(f"{term}\n")
        new.replace(root / _TERM)


def present_term(root: Path) -> int:
    """Return which term the folder belongs to; 0 where that was never written down."""
    try:
        return int((root / _TERM).read_text())
    except FileNotFoundError:
        return 0
