"""What `podbay up` writes down about itself, and the lock on its data folder."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from podbay.local.faults import LocalError
from podbay.local.processes import ProcessIdentity

__all__ = [
    "DataDir",
    "DataDirLock",
    "ServiceRecord",
    "ServiceState",
    "UpRecord",
    "default_data_dir",
    "write_private",
]

# SQLite opens no file whose path is longer than 512 bytes; this leaves room for their names.
_LONGEST_PATH = 440

ServiceState = Literal["starting", "running", "waiting", "stopping", "stopped"]


class _Record(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class ServiceRecord(_Record):
    """One service of a `podbay up`."""

    name: str
    """The service, as "registry"."""
    endpoint: str
    """Where it is reached on this machine, as "127.0.0.1:7101"."""
    state: ServiceState
    """Where it stands; "waiting" is for its turn to be restarted."""
    pid: int | None = None
    """The id of its process, while it has one."""
    create_time: float | None = None
    """When its process was created, in seconds since the epoch."""
    started: datetime | None = None
    """When its process was started."""
    restarts: int = 0
    """How often it was restarted."""

    def identity(self) -> ProcessIdentity | None:
        """Return the service's process, where it has one."""
        if self.pid is None or self.create_time is None:
            return None
        return ProcessIdentity(self.pid, self.create_time)


class UpRecord(_Record):
    """A `podbay up`, as up.json in its data folder tells it."""

    pid: int
    """The id of the process that supervises."""
    create_time: float
    """When that process was created, in seconds since the epoch."""
    state: Literal["starting", "running", "stopping"]
    """Where it stands as a whole."""
    started: datetime
    """When it was started."""
    detached: bool
    """Whether it runs in the background."""
    admin_token_file: Path
    """The file that holds the token of the administrator."""
    services: list[ServiceRecord]
    """The services, in the order in which they were started."""
    ca_file: Path | None = None
    """The certificate of the authority, where the services speak TLS."""

    def connection(self) -> dict[str, Any]:
        """Return how clients on this machine speak to the services: keywords of `Client`."""
        return {"insecure": True} if self.ca_file is None else {"ca_file": self.ca_file}

    def identity(self) -> ProcessIdentity:
        """Return the process that supervises."""
        return ProcessIdentity(self.pid, self.create_time)

    def service(self, name: str) -> ServiceRecord:
        """Return one service by its name.

        Raises:
            KeyError: There is no such service.
        """
        for service in self.services:
            if service.name == name:
                return service
        raise KeyError(name)


def default_data_dir() -> Path:
    """Return the data folder: PODBAY_DATA_DIR where it is set, else ~/.podbay."""
    return Path(os.environ.get("PODBAY_DATA_DIR") or "~/.podbay").expanduser()


def write_private(path: Path, text: str) -> None:
    """Write a file at once as a whole, readable by its owner only."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:  # mkstemp makes it with mode 0600
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class DataDir:
    """The data folder of one local installation.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.record_file = self.path / "up.json"
        self.lock_file = self.path / "up.lock"
        self.admin_token_file = self.path / "admin-token"
        self.service_token_file = self.path / "service-token"
        self.database_file = self.path / "database-url"
        self.logs = self.path / "logs"
        self.run = self.path / "run"
        self.mock_hosts = self.path / "mock-hosts"
        self.certificates = self.path / "certificates"

    @property
    def mark(self) -> dict[str, str]:
        """What the environment of every process of this installation holds, replicas included.

        The name does not begin with "PODBAY_": variables that do are settings, which the session
        manager keeps from replicas.
        """
        return {"_PODBAY_UP_DATA_DIR": str(self.path)}

    def prepare(self) -> None:
        """Create the folder and what belongs into it.

        Raises:
            LocalError: The folder cannot be made or written, or its path is too long.
        """
        length = len(os.fsencode(self.path))
        if length > _LONGEST_PATH:
            raise LocalError(
                "DATA_DIR_PATH_TOO_LONG",
                f"the path of the data folder has {length} bytes, and databases in it could not be "
                f"opened: {_LONGEST_PATH} is the most",
                way_out="name another with --data-dir, or in PODBAY_DATA_DIR",
            )
        try:
            for folder in (self.path, self.logs, self.run):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                # One that is there may be another user's, or on a disk that takes no files.
                tempfile.TemporaryFile(dir=folder).close()
            if not self.service_token_file.exists():
                write_private(self.service_token_file, secrets.token_urlsafe(32) + "\n")
        except OSError as error:
            raise _not_writable(self, error) from error

    def read_record(self) -> UpRecord | None:
        """Return what up.json says, or None where there is none that can be read."""
        try:
            return UpRecord.model_validate_json(self.record_file.read_bytes())
        except (OSError, ValidationError):
            return None

    def running(self) -> UpRecord | None:
        """Return the record of the `podbay up` that runs on this folder, or None."""
        record = self.read_record()
        return record if record is not None and record.identity().is_running() else None

    def write_record(self, record: UpRecord) -> None:
        """Write up.json."""
        write_private(self.record_file, record.model_dump_json(by_alias=True, indent=2) + "\n")

    def remove_record(self) -> None:
        """Remove up.json."""
        self.record_file.unlink(missing_ok=True)


def _not_writable(data: DataDir, error: OSError) -> LocalError:
    return LocalError(
        "DATA_DIR_NOT_WRITABLE",
        f"the data folder {data.path} cannot be used: {error.strerror}",
        way_out="name another with --data-dir, or in PODBAY_DATA_DIR",
    )


class DataDirLock:
    """Holds a data folder for one `podbay up`. The system releases it when the process ends.

    Args:
        data: The folder.
    """

    def __init__(self, data: DataDir) -> None:
        self._data = data
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LocalError: Another `podbay up` holds it, or it cannot be written.
        """
        try:
            handle = os.open(self._data.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _not_writable(self._data, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip()
            os.close(handle)
            raise LocalError(
                "DATA_DIR_IN_USE",
                f"the data folder {self._data.path} is in use by another `podbay up`"
                + (f", process {holder}" if holder else ""),
                way_out=f"see it with `podbay status --data-dir {self._data.path}`, stop it with "
                f"`podbay down --data-dir {self._data.path}`, or name another folder with "
                "--data-dir (and free ports with --registry-port 0 --session-manager-port 0 "
                "--inference-router-port 0)",
            ) from None
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(handle)
            raise _not_writable(self._data, error) from error
        self._handle = handle

    def release(self) -> None:
        """Give the lock back."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
