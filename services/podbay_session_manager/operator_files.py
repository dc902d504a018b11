"""The files of operators: nodes, and how the kinds of runners are run."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from podbay.schema.nodes import NodesFile
from podbay_kit.process import SettingsError
from podbay_session_manager.declared_nodes import DeclaredNode
from podbay_session_manager.node_rules import declared_node
from podbay_session_manager.runner_kinds import DEFAULT_KINDS, KindsFile, RunnerKind, with_changes

__all__ = ["read_nodes", "read_runner_kinds"]


def read_nodes(path: Path) -> list[DeclaredNode]:
    """Return the nodes that a file declares.

    Raises:
        SettingsError: It cannot be read, or breaks a rule; the text names the field.
    """
    data = _read(path)
    try:
        return [declared_node(node) for node in NodesFile.parse(data).nodes]
    except pydantic.ValidationError as error:
        raise _broken(path, error) from error


def read_runner_kinds(path: Path | None) -> Mapping[str, RunnerKind]:
    """Return how the kinds of runners are run, with the changes of a file.

    Raises:
        SettingsError: It cannot be read, or breaks a rule; the text names the field.
    """
    if path is None:
        return DEFAULT_KINDS
    data = _read(path)
    try:
        return with_changes(KindsFile.model_validate(data))
    except pydantic.ValidationError as error:
        raise _broken(path, error) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}.") from error


def _broken(path: Path, error: pydantic.ValidationError) -> SettingsError:
    rules = "; ".join(
        f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg'].removeprefix('Value error, ')}"
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    )
    return SettingsError(f"{path} breaks a rule: {rules}.")
