"""Applying stages to items."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from podbay.schema.adapters._errors import (
    RUN_FAILURES,
    AdapterError,
    AdapterRunError,
    ItemKeyError,
    quoted,
    run_error_type,
)
from podbay.schema.adapters._stages import Many, One, Stage

_FAILURES: tuple[type[Exception], ...] = (AdapterRunError, *RUN_FAILURES)


class _Place(NamedTuple):
    """Where a function of the plan stands in the specification, for errors."""

    step: int | None
    around: tuple[str, ...]  # the kinds around it, the innermost first
    prefix: str  # its place in the outermost specification
    stage: Stage


class _Segment(NamedTuple):
    """Functions from one item to one item, then at most one from an item to many."""

    ones: tuple[One, ...]
    many: Many | None


class Runner:
    """Applies stages, one after the other, to one item at a time.

    The plan is a list of segments, and the state of a run is one iterator for each segment that
    is under way. So a pipeline of any length needs no more of Python's stack than a short one,
    and nothing is computed before it is asked for. Runs share nothing.
    """

    def __init__(self, stages: Iterable[Stage], *, numbered: bool) -> None:
        """Makes the plan.

        Args:
            stages: In the order in which they are applied.
            numbered: Errors name the position of the stage that failed.
        """
        self._places: dict[int, _Place] = {}
        segments: list[_Segment] = []
        ones: list[One] = []
        for step, stage in enumerate(stages):
            for place in _leaves(_Place(step if numbered else None, (), "", stage)):
                if place.stage.many is not None:
                    segments.append(_Segment(tuple(ones), self._named(place.stage.many, place)))
                    ones = []
                elif place.stage.one is not None:
                    ones.append(self._named(place.stage.one, place))
        self._segments = (*segments, _Segment(tuple(ones), None))
        self._only = ones[0] if len(ones) == 1 and not segments else None

    def _named(self, function: Callable[[Any], Any], place: _Place) -> Callable[[Any], Any]:
        """Remembers the place of a function; one that comes twice is wrapped to tell them apart."""
        if id(function) in self._places:
            return self._named(partial(function), place)
        self._places[id(function)] = place
        return function

    def run(self, items: Iterable[Any]) -> Iterator[Any]:
        """Applies the stages to items, lazily.

        Raises:
            AdapterRunError: An item does not fit; what came before it has been delivered.
        """
        if self._only is not None:
            return self._run_only(self._only, items)
        return self._run(items)

    def collect(self, items: Iterable[Any]) -> list[Any]:
        """Applies the stages to items, and returns all outputs."""
        function = self._only
        if function is None:
            return list(self._run(items))
        made = []
        for item in items:
            try:
                made.append(function(item))
            except _FAILURES as failure:
                raise self._explained(failure, function, item) from None
        return made

    def _run_only(self, function: One, items: Iterable[Any]) -> Iterator[Any]:
        """The same as `_run` for a single function, which is the usual case."""
        for item in items:
            try:
                made = function(item)
            except _FAILURES as failure:
                raise self._explained(failure, function, item) from None
            yield made

    def _run(self, items: Iterable[Any]) -> Iterator[Any]:
        segments = self._segments
        under_way = [iter(items)]
        while under_way:
            ones, many = segments[len(under_way) - 1]
            for item in under_way[-1]:
                value = item
                function: Callable[[Any], Any] | None = None
                try:
                    for function in ones:
                        value = function(value)
                    if many is not None:
                        function = many
                        under_way.append(many(value))
                        break
                except _FAILURES as failure:
                    raise self._explained(failure, function, value) from None
                yield value
            else:
                under_way.pop()

    async def run_async(self, items: AsyncIterable[Any]) -> AsyncIterator[Any]:
        """Applies the stages to items that arrive one by one, each as soon as it is there."""
        async for item in items:
            for made in self.run((item,)):
                yield made

    def _explained(
        self, failure: Exception, function: Callable[[Any], Any] | None, item: Any
    ) -> AdapterError:
        """Says where a failure happened, in words that hold nothing of the item."""
        place = self._places[id(function)]
        stage = place.stage
        error: AdapterError
        if isinstance(failure, AdapterError):
            error = failure
        elif isinstance(failure, KeyError):
            # Adapters look up nothing but names from their configuration.
            name = failure.args[0] if failure.args else ""
            error = ItemKeyError(f"the item has no member {quoted(name)}")
        else:
            why = _too_deep(failure) or (stage.explain(item) if stage.explain else "does not fit")
            error = run_error_type(failure)(why)
        error.within(".configuration" if error.path else "").of_kind(stage.kind)
        error.within(place.prefix)
        for kind in place.around:
            error.of_kind(kind)
        return error.at_step(place.step)


def _too_deep(failure: Exception) -> str:
    return "the item is nested too deeply" if isinstance(failure, RecursionError) else ""


def _leaves(place: _Place) -> Iterator[_Place]:
    """Returns the stages that do something, in order, those inside of pipelines included."""
    stage = place.stage
    if stage.inner is None:
        yield place
        return
    for position, inner in enumerate(stage.inner):
        prefix = f"{place.prefix}.configuration{stage.inner_path}[{position}]"
        yield from _leaves(_Place(place.step, (stage.kind, *place.around), prefix, inner))
