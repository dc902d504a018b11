"""How each kind of runner is run: a table that operators can change. Pure."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["DEFAULT_KINDS", "KindsFile", "RunnerKind", "fill", "with_changes"]

_PINNED: Final = re.compile(r"[^@\s]+/[^@\s]+@sha256:[0-9a-f]{64}")
_NAMES: Final = frozenset({"port", "model_path", "model_name"})


@dataclass(frozen=True, slots=True)
class RunnerKind:
    """How services of a kind are run as containers.

    Texts may hold `{port}`, where the replica serves; `{model_path}`, the folder of the model's
    files; and `{model_name}`, the model's name.
    """

    image: str = ""
    """The image where the service names none, by its digest; empty where it must name one. No kind
    has one unless an operator chose it: an image is pinned by whoever vouches for it."""
    command: tuple[str, ...] = ()
    """The command where the service names none, before its args; empty for the image's own."""
    env: tuple[tuple[str, str], ...] = ()
    """Environment variables, unless the service sets them."""
    model_path: str = ""
    """Where the model's files are mounted; empty where the kind has no model of its own."""
    needs_model: bool = False
    """Whether a service of the kind must have a model."""
    readiness_path: str = "/ready"
    """Answers 2xx once a replica is ready, unless the service says otherwise."""
    start_timeout: float = 60.0
    """Seconds until a replica must be ready, unless the service says otherwise."""
    endpoint: str = ""
    """The endpoint of services whose interface names none."""


_MODEL: Final = "/podbay/model"

DEFAULT_KINDS: Final[Mapping[str, RunnerKind]] = MappingProxyType(
    {
        "container": RunnerKind(),
        "standalone": RunnerKind(model_path=_MODEL),
        "vllm": RunnerKind(
            command=(
                *("vllm", "serve", "{model_path}", "--host", "0.0.0.0", "--port", "{port}"),
                *("--served-model-name", "{model_name}"),
            ),
            env=(("HF_HUB_OFFLINE", "1"), ("VLLM_NO_USAGE_STATS", "1")),
            model_path=_MODEL,
            needs_model=True,
            readiness_path="/health",
            start_timeout=900.0,
            endpoint="v1/completions",
        ),
        "huggingface": RunnerKind(
            command=(
                *("text-generation-launcher", "--model-id", "{model_path}"),
                *("--hostname", "0.0.0.0", "--port", "{port}"),
            ),
            env=(("HF_HUB_OFFLINE", "1"),),
            model_path=_MODEL,
            needs_model=True,
            readiness_path="/health",
            start_timeout=900.0,
            endpoint="generate",
        ),
        "bentoml_service_openllm": RunnerKind(
            model_path=_MODEL,
            readiness_path="/readyz",
            start_timeout=900.0,
            endpoint="v1/generate",
        ),
    }
)
"""The kinds as they are unless an operator changes them."""


class _Change(BaseModel):
    """What a file changes of a kind; what it leaves out stays."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    image: str | None = None
    command: list[str] | None = None
    env: dict[str, str] | None = None
    model_path: str | None = Field(default=None, pattern=r"^(/.*)?$")
    needs_model: bool | None = None
    readiness_path: str | None = Field(default=None, pattern=r"^/[!-~]*$")
    start_timeout: float | None = Field(default=None, gt=0, le=86_400)
    endpoint: str | None = None

    @field_validator("image")
    @classmethod
    def _check_image(cls, image: str | None) -> str | None:
        if image is not None and not _PINNED.fullmatch(image):
            raise ValueError("name an image by its digest, as HOST/NAME@sha256:64 HEX DIGITS")
        return image

    @field_validator("command")
    @classmethod
    def _check_command(cls, command: list[str] | None) -> list[str] | None:
        for text in command or ():
            _check_names(text)
        return command

    @field_validator("env")
    @classmethod
    def _check_env(cls, env: dict[str, str] | None) -> dict[str, str] | None:
        for text in (env or {}).values():
            _check_names(text)
        return env


class KindsFile(BaseModel):
    """A TOML file that changes kinds: a table `[kinds.vllm]` and so on."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    kinds: dict[str, _Change] = Field(default_factory=dict)

    @field_validator("kinds")
    @classmethod
    def _check_kinds(cls, kinds: dict[str, _Change]) -> dict[str, _Change]:
        for name in kinds:
            if name not in DEFAULT_KINDS:
                raise ValueError(f"knows {', '.join(DEFAULT_KINDS)}, not {name!r}")
        return kinds


def with_changes(file: KindsFile) -> Mapping[str, RunnerKind]:
    """Return the kinds with the changes of a file."""
    kinds = dict(DEFAULT_KINDS)
    for name, change in file.kinds.items():
        values: dict[str, Any] = change.model_dump(exclude_none=True)
        if "command" in values:
            values["command"] = tuple(values["command"])
        if "env" in values:
            values["env"] = tuple(values["env"].items())
        kinds[name] = replace(kinds[name], **values)
    return kinds


def fill(texts: Iterable[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """Return texts with their names filled in: "port", "model_path" and "model_name"."""
    return tuple(text.format_map(values) for text in texts)


def _check_names(text: str) -> None:
    try:
        fields = [part[1:] for part in string.Formatter().parse(text) if part[1] is not None]
    except ValueError as error:
        raise ValueError("has a brace without its pair; double it for a brace") from error
    for name, form, conversion in fields:
        if name not in _NAMES:
            raise ValueError(f"knows {{{'}, {'.join(sorted(_NAMES))}}}, not {{{name}}}")
        if form or conversion:
            raise ValueError(f"takes {{{name}}} as it is, without a format")
