"""From specifications to adapters and pipelines."""

import copy
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import cached_property
from typing import Any, Protocol, Self

from podbay.schema.adapters._collections import build_explode, build_map, needs_to_be_last
from podbay.schema.adapters._errors import (
    AdapterError,
    ConfigurationDepthError,
    ConfigurationKeyError,
    ConfigurationTypeError,
    ConfigurationValueError,
    ItemTypeError,
    json_type,
    quoted,
)
from podbay.schema.adapters._fields import build_drop, build_rename, build_select
from podbay.schema.adapters._hierarchy import build_flatten
from podbay.schema.adapters._run import Runner
from podbay.schema.adapters._stages import AdapterOptions, Building, Stage
from podbay.schema.adapters._template import build_transform
from podbay.schema.adapters._upload import build_upload


class AdapterSpec(Protocol):
    """What a specification must have: `podbay.schema.platform.SchemaAdapter` does."""

    @property
    def kind(self) -> str:
        """The kind of the adapter."""

    @property
    def configuration(self) -> Mapping[str, Any] | None:
        """The configuration, as the kind wants it."""


# A specification of its own, and its options: what an adapter is made from once more.
_MadeFrom = tuple[Mapping[str, Any], AdapterOptions]


class _Applicable:
    """What adapters and pipelines have in common."""

    def __init__(self, stages: Iterable[Stage], warnings: Iterable[str], *, numbered: bool) -> None:
        self._stages = tuple(stages)
        self._numbered = numbered
        self.warnings = tuple(warnings)

    @cached_property
    def _runner(self) -> Runner:
        # At the first use, because the adapters of a pipeline are hardly ever used by themselves.
        return Runner(self._stages, numbered=self._numbered)

    def apply(self, items: Iterable[Any]) -> Iterator[Any]:
        """Applies to items, lazily: an item is taken only when its outputs are asked for.

        Args:
            items: Usually JSON objects. They are not modified; outputs share nested values with
                them.

        Returns:
            An iterator of the outputs. Errors surface in it, after the outputs before them.

        Raises:
            AdapterRunError: An item does not fit. Its own earlier outputs have been delivered.
        """
        return self._runner.run(items)

    def __call__(self, items: Iterable[Any]) -> Iterator[Any]:
        """The same as `apply`."""
        return self._runner.run(items)

    def aapply(self, items: AsyncIterable[Any]) -> AsyncIterator[Any]:
        """Applies to items that arrive one by one; otherwise as `apply`.

        It runs in the event loop, which waits where a regular expression needs its time limit
        (`AdapterOptions.pattern_seconds`).
        """
        return self._runner.run_async(items)

    def __copy__(self) -> Self:
        return self  # nothing of it can be changed

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self

    def push(self, item: Any) -> list[Any]:
        """Returns all outputs for one item: none, one or many.

        Raises:
            AdapterRunError: The item does not fit. Use `apply` for the outputs before the error.
        """
        return self._runner.collect((item,))


class Adapter(_Applicable):
    """One adapter, made by `create_adapter`.

    It is never changed, so threads can share it. Pickled, it is its specification.

    Attributes:
        kind: Its kind.
        warnings: Remarks about its configuration, each with its place: what is valid and
            probably not meant.
    """

    def __init__(self, stage: Stage, warnings: Iterable[str], made_from: _MadeFrom) -> None:
        super().__init__((stage,), warnings, numbered=False)
        self.kind = stage.kind
        self._made_from = made_from

    def __reduce__(self) -> tuple[Any, ...]:
        return (create_adapter, self._made_from)

    @property
    def stage(self) -> Stage:
        """The adapter's inner form, of which pipelines are made."""
        return self._stages[0]


class Pipeline(_Applicable):
    """Adapters that are applied one after the other.

    It is never changed, so threads can share it. Pickled, it is its specifications.

    Attributes:
        warnings: Remarks about the configurations, each with its place.
    """

    def __init__(self, adapters: Iterable[Adapter] = ()) -> None:
        """Makes a pipeline; without adapters it is the identity.

        Raises:
            ConfigurationValueError: An adapter other than the last makes file uploads.
        """
        adapters = tuple(adapters)
        stages = [adapter.stage for adapter in adapters]
        _check_last(stages)
        warnings = [
            f"Adapter {step} ({adapter.kind}){warning}"
            for step, adapter in enumerate(adapters)
            for warning in adapter.warnings
        ]
        super().__init__(stages, warnings, numbered=True)
        self._adapters = adapters

    def __reduce__(self) -> tuple[Any, ...]:
        return (Pipeline, (self._adapters,))

    def __len__(self) -> int:
        return len(self._stages)

    def __bool__(self) -> bool:
        """A pipeline is always there, also when it is empty."""
        return True


def known_kinds() -> frozenset[str]:
    """Returns the kinds of adapters that can be created."""
    return frozenset(_BUILDERS)


def create_adapter(
    spec: AdapterSpec | Mapping[str, Any], options: AdapterOptions | None = None
) -> Adapter:
    """Builds an adapter.

    Args:
        spec: An object with `kind` and `configuration`, or a mapping with these members. It is
            neither changed nor kept.
        options: How to deviate from the established behaviour; by default not at all.

    Raises:
        AdapterConfigurationError: The specification is at fault. The error is also of the
            built-in type that fits: KeyError, ValueError, TypeError, AttributeError.
    """
    warnings: list[str] = []
    options = options or AdapterOptions()
    kind, configuration = _read(spec)
    try:
        own = {"kind": kind, "configuration": copy.deepcopy(configuration)}
    except RecursionError:
        raise _too_deep(kind) from None
    return Adapter(_build(own, options, "", warnings.append), warnings, (own, options))


def create_pipeline(
    specs: Iterable[AdapterSpec | Mapping[str, Any]], options: AdapterOptions | None = None
) -> Pipeline:
    """Builds a pipeline.

    Args:
        specs: The specifications of its adapters, in order.
        options: How to deviate from the established behaviour; by default not at all.

    Raises:
        AdapterConfigurationError: As for `create_adapter`; the error names the step.
    """
    adapters = []
    for step, spec in enumerate(specs):
        try:
            adapters.append(create_adapter(spec, options))
        except AdapterError as error:
            raise error.at_step(step) from None
    return Pipeline(adapters)


def _check_last(stages: Sequence[Stage]) -> None:
    for step, stage in enumerate(stages[:-1]):
        if needs_to_be_last(stage):
            message = "makes file uploads, so it must be the last adapter of the pipeline"
            raise ConfigurationValueError(message).of_kind(stage.kind).at_step(step)


def _build(spec: Any, options: AdapterOptions, place: str, warn: Callable[[str], None]) -> Stage:
    """Builds a stage; `place` is where its specification stands in the outermost one.

    The specification is the adapter's own, and stays as it is.
    """
    kind, configuration = _read(spec)
    here = f"{place}.configuration"

    def warn_here(path: str, message: str) -> None:
        warn(f", {(here + path).removeprefix('.')}: {message}")

    def build_inner(inner: Any, path: str) -> Stage:
        try:
            return _build(inner, options, here + path, warn)
        except AdapterError as error:
            raise error.within(path) from None

    building = Building(options, warn_here, build_inner)
    try:
        if configuration is None and kind != "FlattenHierarchy":
            raise ConfigurationTypeError(f"{kind} needs a configuration")
        return _BUILDERS[kind](configuration, building)
    except AdapterError as error:
        raise error.within(".configuration").of_kind(kind) from None
    except RecursionError:
        raise _too_deep(kind) from None


def _too_deep(kind: str) -> ConfigurationDepthError:
    message = "the configuration is nested too deeply"
    return ConfigurationDepthError(message, path=".configuration", kind=kind)


def _read(spec: Any) -> tuple[str, Any]:
    """Returns the kind and the configuration of a specification, in either form."""
    if isinstance(spec, Mapping):
        if "kind" not in spec:
            raise ConfigurationKeyError("the specification needs the member 'kind'")
        kind, configuration = spec["kind"], spec.get("configuration")
    elif hasattr(spec, "kind") and hasattr(spec, "configuration"):
        kind, configuration = spec.kind, spec.configuration
    else:
        message = f"a specification must be an object with a kind, not {json_type(spec)}"
        raise ConfigurationTypeError(message)
    if isinstance(kind, list | dict):
        raise ConfigurationTypeError("must be the name of a kind", path=".kind")
    if not isinstance(kind, str) or kind not in _BUILDERS:
        listed = ", ".join(sorted(_BUILDERS))
        message = f"{quoted(kind)} is no kind of adapter; there are {listed}"
        raise ConfigurationValueError(message, path=".kind").of_kind(quoted(kind))
    return kind, configuration


def _build_pipeline(configuration: Any, building: Building) -> Stage:
    """Builds the kind Pipeline: empty it is the identity; with extensions, a list of adapters."""
    if building.options.extensions:
        return _build_extended(configuration, building)
    try:
        empty = not tuple(configuration)
    except TypeError:
        message = f"must be empty, not {json_type(configuration)}"
        raise ConfigurationTypeError(message) from None
    if empty:
        return Stage("Pipeline", inner=())
    problem = "can only be empty; adapters inside of it are an extension"
    building.warn("", f"fails for every item: {problem}")

    def fail(_: Any) -> Any:
        raise ItemTypeError(problem)

    return Stage("Pipeline", one=fail)


def _build_extended(configuration: Any, building: Building) -> Stage:
    specs = configuration
    path = ""
    if isinstance(configuration, dict):
        specs, path = configuration.get("adapters", []), ".adapters"
    if not isinstance(specs, list):
        message = f"must be a list of adapters, not {json_type(specs)}"
        raise ConfigurationTypeError(message, path=path)
    inner = [building.build(spec, f"{path}[{at}]") for at, spec in enumerate(specs)]
    _check_last(inner)
    return Stage("Pipeline", inner=tuple(inner), inner_path=path)


_BUILDERS: dict[str, Callable[[Any, Building], Stage]] = {
    "Drop": build_drop,
    "ExplodeCollections": build_explode,
    "FileUpload": build_upload,
    "FlattenHierarchy": build_flatten,
    "Map": build_map,
    "Pipeline": _build_pipeline,
    "Rename": build_rename,
    "Select": build_select,
    "TransformJSON": build_transform,
}
