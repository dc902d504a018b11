"""Any pipeline takes an item only when all that the items before it make has been delivered."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podbay.schema.adapters import (
    AdapterConfigurationError,
    AdapterRunError,
    Pipeline,
    create_pipeline,
)
from tests.support.adapter_cases import ITEMS, PIPELINES
from tests.support.reference_child import as_text

STREAMS = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


class Source:
    """Items that count how many were taken."""

    def __init__(self, items: list[Any]) -> None:
        self.taken = 0
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self.taken += 1
            yield item

    async def __aiter__(self) -> AsyncIterator[Any]:
        for item in self:
            await asyncio.sleep(0)
            yield item


def build(specs: list[Any]) -> Pipeline:
    try:
        return create_pipeline(specs)
    except AdapterConfigurationError:
        return create_pipeline([])


def expected(pipeline: Pipeline, items: list[Any]) -> list[tuple[str, int]]:
    """What is delivered, an error included, with the number of items taken until then."""
    made: list[tuple[str, int]] = []
    for taken, item in enumerate(items, start=1):
        try:
            for output in pipeline.apply([item]):
                made.append((as_text(output), taken))  # noqa: PERF401 - what came before an error counts
        except AdapterRunError as error:
            return [*made, (str(error), taken)]
    return made


@given(PIPELINES, ITEMS)
@STREAMS
def test_no_item_is_taken_before_it_is_needed(specs: list[Any], items: list[Any]) -> None:
    pipeline = build(specs)
    source = Source(items)
    outputs = pipeline.apply(source)
    assert source.taken == 0
    made: list[tuple[str, int]] = []
    try:
        for output in outputs:
            made.append((as_text(output), source.taken))  # noqa: PERF401 - as above
    except AdapterRunError as error:
        made.append((str(error), source.taken))
        assert list(outputs) == [], "it goes on after an error"
    else:
        assert source.taken == len(items)
    assert made == expected(pipeline, items)


@given(PIPELINES, ITEMS)
@STREAMS
def test_no_item_of_a_stream_is_awaited_before_it_is_needed(
    specs: list[Any], items: list[Any]
) -> None:
    pipeline = build(specs)

    async def run() -> list[tuple[str, int]]:
        source = Source(items)
        outputs = pipeline.aapply(source)
        assert source.taken == 0
        made: list[tuple[str, int]] = []
        try:
            async for output in outputs:
                made.append((as_text(output), source.taken))  # noqa: PERF401 - as above
        except AdapterRunError as error:
            made.append((str(error), source.taken))
        return made

    assert asyncio.run(run()) == expected(pipeline, items)


@given(PIPELINES, ITEMS, st.integers(0, 3))
@STREAMS
def test_a_run_that_is_left_early_has_taken_no_more(
    specs: list[Any], items: list[Any], wanted: int
) -> None:
    pipeline = build(specs)
    source = Source(items)
    outputs = pipeline.apply(source)
    complete = expected(pipeline, items)
    for _, taken in complete[:wanted]:
        with contextlib.suppress(AdapterRunError):
            next(outputs)
        assert source.taken == taken
