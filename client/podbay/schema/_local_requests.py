"""The request for a service that needs no image."""

from keyword import iskeyword
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from podbay.schema._hardware import ModelResources
from podbay.schema._request_base import AccountRequest
from podbay.schema._runner import EnvVar, InferenceServiceRunner, InferenceServiceRunnerKind
from podbay.schema._service import InferenceInterface
from podbay.schema.mock_keys import MOCK_KEY_VARIABLE

__all__ = ["LocalInferenceServiceCreateRequest"]

_HIGHEST_PORT = 65535


def _check_text(text: str) -> str:
    """Refuses what no operating system can hand to a process."""
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


class LocalInferenceServiceCreateRequest(AccountRequest):
    """The specification of a new service that needs no image.

    It is a mock, whose name is the import path of its class, or a command on the node that
    serves HTTP on the port given in the environment variable `PORT`. A `PORT` in `env` asks for
    that fixed port; a `PODBAY_MOCK_KEY` says that the class lives in the process that made it.

    Attributes:
        interface: How it is called.
        command: The program and its first arguments; none for a mock.
        args: Further arguments of the command.
        env: Environment variables of its replicas.
        workingDir: The folder on the node in which the command runs.
        model: The id of the model that the service stands for.
        name: What people call it; of a mock, the import path of its class.
    """

    interface: InferenceInterface
    command: Annotated[list[str], Field(min_length=1)] | None = None
    args: list[str] | None = None
    env: list[EnvVar] | None = None
    workingDir: PurePosixPath | None = None
    model: str | None = None
    # Last, so that its check can see whether there is a command.
    name: Annotated[str, Field(min_length=1)]

    @field_validator("command")
    @classmethod
    def _check_command(cls, command: list[str] | None) -> list[str] | None:
        if command is not None and not command[0]:
            raise ValueError("the first item is the program to run: it must not be empty")
        return command if command is None else [_check_text(item) for item in command]

    @field_validator("args")
    @classmethod
    def _check_args(cls, args: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if args and info.data.get("command", args) is None:
            raise ValueError("a mock takes no arguments: give a command, or leave them out")
        return args if args is None else [_check_text(item) for item in args]

    @field_validator("env")
    @classmethod
    def _check_env(cls, env: list[EnvVar] | None) -> list[EnvVar] | None:
        seen: set[str] = set()
        for index, variable in enumerate(env or ()):
            if not variable.name or "=" in variable.name:
                raise ValueError(f"{index}.name: must not be empty, and must not hold '='")
            if variable.name in seen:
                raise ValueError(f"{index}.name: the variable is set before")
            seen.add(variable.name)
            _check_text(variable.name)
            _check_text(variable.value)
            if variable.name == "PORT" and not _is_port(variable.value):
                raise ValueError(f"{index}.value: PORT is a number from 1 to {_HIGHEST_PORT}")
        return env

    @field_validator("workingDir")
    @classmethod
    def _check_working_dir(cls, path: PurePosixPath | None) -> PurePosixPath | None:
        _check_text(str(path))
        return path

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str, info: ValidationInfo) -> str:
        # Where the command itself is wrong it is not in the data, and its own error is enough.
        imported = not any(each.name == MOCK_KEY_VARIABLE for each in info.data.get("env") or ())
        if imported and info.data.get("command", ()) is None and not _is_import_path(name):
            raise ValueError(
                "the name of a mock is the import path of its class, as package.module.Class; "
                "a service with another name needs a command"
            )
        return name

    def to_runner(self) -> InferenceServiceRunner:
        """Returns the runner of the service: kind `mock`, with the command where there is one."""
        return InferenceServiceRunner(
            kind=InferenceServiceRunnerKind.MOCK,
            resources=ModelResources(),
            command=self.command,
            args=self.args,
            env=self.env,
            workingDir=self.workingDir,
        )


def _is_port(text: str) -> bool:
    # A length limit, as int() refuses thousands of digits with an error of its own.
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= _HIGHEST_PORT


def _is_import_path(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 1 and all(part.isidentifier() and not iskeyword(part) for part in parts)
