"""How replicas of a service are started, probed, loaded and stopped."""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import InitErrorDetails, PydanticCustomError

from podbay.schema._base import RequestModel
from podbay.schema._common import Annotation

__all__ = [
    "DEFAULT_START_TIMEOUT",
    "DEFAULT_STOP_GRACE",
    "ServingOptions",
    "default_readiness_path",
]

DEFAULT_START_TIMEOUT = 60.0
"""How long a replica may take from its start until it is ready, in seconds."""

DEFAULT_STOP_GRACE = 10.0
"""How long a replica may take to end after it was asked to, in seconds."""

_DAY = 86_400.0
_HOUR = 3_600.0
_INT32_MAX = 2**31 - 1

_DOMAIN = "podbay.dev/"
_DECIMAL = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?", re.ASCII)
_INTEGER = re.compile(r"[0-9]{1,12}", re.ASCII)
_BOOLEANS = {"true": True, "false": False}

# The options by the names of their annotations, and how their texts are read.
_KEYS = {
    f"{_DOMAIN}readiness-path": "readinessPath",
    f"{_DOMAIN}start-timeout": "startTimeout",
    f"{_DOMAIN}stop-grace": "stopGrace",
    f"{_DOMAIN}max-concurrency": "maxConcurrency",
    f"{_DOMAIN}safe-to-retry": "safeToRetry",
    f"{_DOMAIN}max-in-flight": "maxInFlight",
    f"{_DOMAIN}queue-length": "queueLength",
    f"{_DOMAIN}queue-timeout": "queueTimeout",
    f"{_DOMAIN}hedge-after": "hedgeAfter",
    f"{_DOMAIN}egress": "egress",
}

# Unless an operator has changed how a kind is run.
_READINESS_PATHS = {
    "vllm": "/health",
    "huggingface": "/health",
    "bentoml_service_openllm": "/readyz",
}


def default_readiness_path(runner_kind: str) -> str:
    """Returns the path that says whether a replica is ready, by the kind of its runner."""
    return _READINESS_PATHS.get(runner_kind, "/ready")


class ServingOptions(RequestModel):
    """How replicas of a service are started, probed, loaded and stopped.

    Every option may be left out. A resource keeps the options in its annotations, as the
    platform's resources have no members for them.
    """

    model_config = ConfigDict(
        strict=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )

    # Answers 2xx once a replica is ready; the runner's kind decides where it is left out.
    readiness_path: (
        Annotated[str, StringConstraints(pattern=r"^/[!-~]*$", max_length=1024)] | None
    ) = None
    # Seconds from a replica's start until it must be ready.
    start_timeout: Annotated[float, Field(gt=0, le=_DAY, allow_inf_nan=False)] | None = None
    # Seconds a replica may take to end after it was asked to.
    stop_grace: Annotated[float, Field(ge=0, le=_HOUR, allow_inf_nan=False)] | None = None
    # Calls that one replica works on at once; unbounded where it is left out.
    max_concurrency: Annotated[int, Field(ge=1, le=_INT32_MAX)] | None = None
    # Whether a call may be sent again although a replica may have seen it.
    safe_to_retry: bool | None = None
    # Calls of a session that run at once, over all its replicas; unbounded where it is left out.
    max_in_flight: Annotated[int, Field(ge=1, le=_INT32_MAX)] | None = None
    # Calls of a session that may wait for a replica; the router's setting where it is left out.
    queue_length: Annotated[int, Field(ge=0, le=_INT32_MAX)] | None = None
    # Seconds a call may wait for a replica; the router's setting where it is left out.
    queue_timeout: Annotated[float, Field(ge=0, le=_DAY, allow_inf_nan=False)] | None = None
    # Seconds without an answer after which a call is sent to a second replica, too, and the first
    # answer is taken; never where it is left out.
    hedge_after: Annotated[float, Field(gt=0, le=_HOUR, allow_inf_nan=False)] | None = None
    # Whether a replica may open connections to the outside, where the operator allows that.
    egress: bool | None = None

    @model_validator(mode="after")
    def _hedge_only_what_may_run_twice(self) -> Self:
        if self.hedge_after is not None and not self.safe_to_retry:
            raise _refused(
                type(self).__name__, "hedgeAfter", "needs safeToRetry: a call may run twice"
            )
        return self

    @classmethod
    def from_annotations(cls, annotations: Iterable[Annotation]) -> Self:
        """Reads the options from a resource's annotations; other annotations do not matter.

        Raises:
            pydantic.ValidationError: An option comes twice, or its text is not of its form.
        """
        values: dict[str, Any] = {}
        for annotation in annotations:
            name = _KEYS.get(annotation.key)
            if name is None:
                continue
            if name in values:
                raise _refused(cls.__name__, name, "the annotation comes more than once")
            values[name] = _read(cls.__name__, name, annotation.value)
        return cls.model_validate(values)

    def to_annotations(self) -> list[Annotation]:
        """Returns the options that are set as annotations, in a fixed order."""
        values = self.model_dump(exclude_unset=False)
        return [
            Annotation(key=key, value=_write(values[name]))
            for key, name in _KEYS.items()
            if name in values
        ]


def _read(title: str, name: str, text: str) -> str | float | bool:
    if name in {"startTimeout", "stopGrace", "queueTimeout", "hedgeAfter"}:
        if not _DECIMAL.fullmatch(text):
            raise _refused(title, name, "the annotation is not a number of seconds, as 2.5")
        return float(text)
    if name in {"maxConcurrency", "maxInFlight", "queueLength"}:
        if not _INTEGER.fullmatch(text):
            raise _refused(title, name, "the annotation is not a whole number")
        return int(text)
    if name in {"safeToRetry", "egress"}:
        if text not in _BOOLEANS:
            raise _refused(title, name, "the annotation is neither true nor false")
        return _BOOLEANS[text]
    return text


def _write(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        # Never in the form 1e-05.
        text = f"{Decimal(repr(value)):f}"
        return text.removesuffix(".0")
    return str(value)


def _refused(title: str, name: str, message: str) -> ValidationError:
    error = PydanticCustomError("annotation", "{rule}", {"rule": message})
    return ValidationError.from_exception_data(
        title, [InitErrorDetails(type=error, loc=(name,), input=None)], hide_input=True
    )
