"""From a service to the command, environment and folder of a process on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from podbay.schema.mock_keys import MOCK_KEY_VARIABLE
from podbay_session_manager.drivers.contract import LaunchSpec, StartFailedError
from podbay_session_manager.records import (
    PORT_VARIABLE,
    REPLICA_VARIABLE,
    SESSION_VARIABLE,
    Reason,
    ServiceSpec,
)

__all__ = [
    "MOCK_EXITS",
    "ProcessCommand",
    "prepare",
    "replica_environment",
    "supports_local",
    "working_folder",
]

_OURS: Final = "PODBAY_"
_FOR_MOCKS: Final = "PODBAY_MOCK_"

MOCK_EXITS: Final[Mapping[int, tuple[Reason, str]]] = {
    78: (
        Reason.MOCK_NOT_IMPORTABLE,
        (
            "The class of the mock cannot be imported on this node; the last lines of the log tell "
            "why. The service's name must be the import path of a class, as package.module.Class, "
            "and its package must be importable where the session manager runs (PYTHONPATH)."
        ),
    ),
    98: (
        Reason.PORT_TAKEN,
        "The port that the replica was to serve on was taken by another process in the meantime.",
    ),
}
"""What the server of mocks says by its exit code."""


@dataclass(frozen=True, slots=True)
class ProcessCommand:
    """What to execute."""

    executable: str
    argv: tuple[str, ...]
    folder: str
    """The folder in which it runs; empty for that of the session manager."""


def supports_local(service: ServiceSpec) -> str | None:
    """Return None where drivers of this machine can run the service, else why not."""
    if service.kind != "mock":
        return (
            f"it runs services of the runner kind 'mock' (mocks and local commands), and this one "
            f"is of kind {service.kind!r}"
        )
    if MOCK_KEY_VARIABLE in dict(service.env):
        return "its class lives in the process that made it, and no other can import it"
    port = dict(service.env).get(PORT_VARIABLE)
    if port is not None and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        return "PORT in the service's env is not a number between 1 and 65535"
    return None


def working_folder(service: ServiceSpec) -> str:
    """Return the folder that the service wants to run in; empty for any.

    Raises:
        StartFailedError: WORKING_DIRECTORY_NOT_FOUND.
    """
    if service.working_dir is None:
        return ""
    folder = Path(service.working_dir)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise StartFailedError(
            Reason.WORKING_DIRECTORY_NOT_FOUND,
            f"The working directory {service.working_dir} {what} on this node. Make it, or give "
            "the service another workingDir.",
        )
    return str(folder)


def prepare(service: ServiceSpec, environment: Mapping[str, str]) -> ProcessCommand:
    """Return what to execute for a service.

    Raises:
        StartFailedError: WORKING_DIRECTORY_NOT_FOUND, COMMAND_NOT_FOUND or
            COMMAND_NOT_EXECUTABLE.
    """
    folder = working_folder(service)
    if service.is_mock:
        argv = (sys.executable, "-m", "podbay_kit.replica_server", service.name, *service.args)
        return ProcessCommand(sys.executable, argv, folder)
    argv = (*service.command, *service.args)
    executable = _look_up(service.command[0], folder, environment.get("PATH", os.defpath))
    return ProcessCommand(executable, argv, folder)


def replica_environment(spec: LaunchSpec, port: int, own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a replica's process.

    It is that of the session manager without Podbay's own settings, which may hold secrets, and
    with what the service sets.

    Args:
        spec: What is started.
        port: Where it shall serve.
        own: The environment of the session manager.
    """
    environment = {
        name: value
        for name, value in own.items()
        if not name.startswith(_OURS) or name.startswith(_FOR_MOCKS)
    }
    # Without it, the log lines of a service in Python stay in a buffer until it ends, and are lost
    # when it is killed.
    environment.setdefault("PYTHONUNBUFFERED", "1")
    environment.update(spec.service.env)
    environment[PORT_VARIABLE] = str(port)
    environment[SESSION_VARIABLE] = spec.session_id
    environment[REPLICA_VARIABLE] = spec.replica_id
    return environment


def _look_up(name: str, folder: str, search: str) -> str:
    if "/" in name:
        candidates = [Path(folder or ".", name).absolute()]
    else:
        candidates = [Path(part or ".", name).absolute() for part in search.split(os.pathsep)]
    present: Path | None = None
    for candidate in candidates:
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return str(candidate)
        if present is None and candidate.exists():
            present = candidate
    if present is not None:
        what = "is a folder" if present.is_dir() else "may not be executed by this user"
        raise StartFailedError(
            Reason.COMMAND_NOT_EXECUTABLE,
            f"The command {name!r} of the service is {present}, which {what}. Mend its permissions "
            f"(chmod +x {present}), or give the service another command.",
        )
    where = "It has no such file" if "/" in name else "It is on no folder of the PATH"
    raise StartFailedError(
        Reason.COMMAND_NOT_FOUND,
        f"The command {name!r} of the service is not on this node. {where}. Install it, or "
        "give the service the full path of a command that is there.",
    )
