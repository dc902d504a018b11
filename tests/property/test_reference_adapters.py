"""Random pipelines over random JSON: Podbay's adapters against the reference package."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podbay.schema.adapters import create_pipeline
from podbay.schema.platform import SchemaAdapter
from tests.support.adapter_cases import ITEMS, PIPELINES
from tests.support.reference import Reference
from tests.support.reference_child import outcome

# Each example is so many pipelines, each over so many lists of items: all go in one message.
_PIPELINES, _LISTS = 3, 3
_CASES = int(os.environ.get("PODBAY_DIFFERENTIAL_CASES", "2000"))

pytestmark = [pytest.mark.needs_reference, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def reference() -> Iterator[Reference]:
    with Reference() as running:
        yield running


def _ours(case: dict[str, Any]) -> dict[str, Any]:
    make_spec = SchemaAdapter.model_validate if case["validated"] else _same
    return outcome(case["specs"], case["items"], make_spec, create_pipeline)


def _same(spec: Any) -> Any:
    return spec


def _difference(case: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """Says how the outcomes differ; our errors derive from the types of the reference's."""
    same_error = theirs["error"][:1] == [] or _of_type(theirs["error"], ours["error"])
    same = ours["phase"] == theirs["phase"] and ours["outputs"] == theirs["outputs"] and same_error
    return None if same else f"\ncase:   {case}\nours:   {ours}\ntheirs: {theirs}"


def _of_type(theirs: list[str], ours: list[str]) -> bool:
    # Python 3.13 calls re.error by another name, and keeps the old one as an alias.
    return theirs[0] in ours


@given(
    pipelines=st.lists(PIPELINES, min_size=_PIPELINES, max_size=_PIPELINES),
    inputs=st.lists(ITEMS, min_size=_LISTS, max_size=_LISTS),
    validated=st.booleans(),
)
@settings(
    max_examples=max(1, _CASES // (_PIPELINES * _LISTS)),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_pipelines_do_what_the_reference_does(
    reference: Reference, pipelines: list[Any], inputs: list[Any], validated: bool
) -> None:
    cases = [
        {"specs": specs, "items": items, "validated": validated}
        for specs in pipelines
        for items in inputs
    ]
    theirs = reference.adapt(cases)
    for case, found in zip(cases, theirs, strict=True):
        difference = _difference(case, _ours(case), found)
        assert difference is None, difference
