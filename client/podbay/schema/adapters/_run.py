"""Applying stages to items."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any, NamedTuple

from podbay.schema.adapters._compiled import Row, compile_row
from podbay.schema.adapters._errors import (
    RUN_FAILURES,
    AdapterError,
    AdapterRunError,
    quoted,
    run_error_type,
)
from podbay.schema.adapters._stages import Many, Stage

_FAILURES: tuple[type[Exception], ...] = (AdapterRunError, *RUN_FAILURES)
# What an item is too much for, whatever the adapter is.
_BEYOND: dict[type[Exception], str] = {
    RecursionError: "the item is nested too deeply",
    MemoryError: "the output does not fit into the memory",
}


class _Place(NamedTuple):
    """A stage, and where it stands in the specification, for errors."""

    stage: Stage
    step: int | None
    kinds: str  # its kind, after those around it, as errors have them
    prefix: str  # its place in the outermost specification


class _Fork(NamedTuple):
    """An adapter that makes many items of one, after a row of those that make one of one."""

    row: Row
    many: Many
    place: _Place


class Runner:
    """Applies stages, one after the other, to one item at a time.

    The plan is a list of forks and the row after the last of them, and the state of a run is one
    iterator for each row that is under way. So a pipeline of any length needs no more of Python's
    stack than a short one, and nothing is computed before it is asked for. Runs share nothing.
    """

    def __init__(self, stages: Iterable[Stage], *, numbered: bool, prefix: str = "") -> None:
        """Makes the plan.

        Args:
            stages: In the order in which they are applied.
            numbered: Errors name the position of the stage that failed.
            prefix: The place of the stages in a larger specification.
        """
        forks: list[_Fork] = []
        row: list[_Place] = []
        for step, stage in enumerate(stages):
            for place in _leaves(_Place(stage, step if numbered else None, stage.kind, prefix)):
                if place.stage.many is not None:
                    forks.append(_Fork(_compiled(row), place.stage.many, place))
                    row = []
                else:
                    row.append(place)
        self._forks = tuple(forks)
        self._last = _compiled(row)

    def run(self, items: Iterable[Any]) -> Iterator[Any]:
        """Applies the stages to items, lazily.

        Raises:
            AdapterRunError: An item does not fit; what came before it has been delivered.
        """
        return self._run(items) if self._forks else self._last.run(items)

    def collect(self, items: Iterable[Any]) -> list[Any]:
        """Applies the stages to items, and returns all outputs."""
        return list(self._run(items)) if self._forks else self._last.collect(items)

    def _run(self, items: Iterable[Any]) -> Iterator[Any]:
        forks = self._forks
        rows = [*(fork.row.run for fork in forks), self._last.run]
        under_way = [rows[0](items)]
        while under_way:
            if len(under_way) > len(forks):
                yield from under_way.pop()
                continue
            fork = forks[len(under_way) - 1]
            for value in under_way[-1]:
                try:
                    many = fork.many(value)
                except _FAILURES as failure:
                    raise _explained(failure, fork.place, value) from None
                under_way.append(rows[len(under_way)](many))
                break
            else:
                under_way.pop()

    async def run_async(self, items: AsyncIterable[Any]) -> AsyncIterator[Any]:
        """Applies the stages to items that arrive one by one, each as soon as it is there."""
        async for item in items:
            for made in self.run((item,)):
                yield made


def _compiled(row: list[_Place]) -> Row:
    places = tuple(row)

    def explain(failure: Exception, at: int, value: Any) -> AdapterError:
        return _explained(failure, places[at], value)

    return compile_row([place.stage for place in places], _FAILURES, explain)


def _explained(failure: Exception, place: _Place, item: Any) -> AdapterError:
    """Says where a failure happened, in words that hold nothing of the item."""
    stage = place.stage
    if isinstance(failure, AdapterError):
        failure.within(".configuration" if failure.path else "").within(place.prefix)
        return failure.of_kind(place.kinds).at_step(place.step)
    if isinstance(failure, KeyError):
        # Adapters look up nothing but names from their configuration.
        name = failure.args[0] if failure.args else ""
        why = f"the item has no member {quoted(name)}"
    else:
        why = _BEYOND.get(type(failure)) or (
            stage.explain(item) if stage.explain else "does not fit"
        )
    return run_error_type(failure)(why, path=place.prefix, kind=place.kinds, step=place.step)


def _leaves(place: _Place) -> Iterator[_Place]:
    """Returns the stages that do something, in order, those inside of pipelines included."""
    stage = place.stage
    if stage.inner is None:
        yield place
        return
    for position, inner in enumerate(stage.inner):
        kinds = f"{place.kinds} > {inner.kind}"
        prefix = f"{place.prefix}.configuration{stage.inner_path}[{position}]"
        yield from _leaves(_Place(inner, place.step, kinds, prefix))
