"""Whatever goes wrong with an item is an error of adapters, of the built-in type, without data."""

import pickle
import traceback
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podbay.schema.adapters import (
    AdapterConfigurationError,
    AdapterOptions,
    AdapterRunError,
    EnvelopeError,
    PatternGuardError,
    PatternTimeoutError,
    create_pipeline,
    file_upload_envelope,
    known_kinds,
)
from tests.support.adapter_cases import ITEMS, PIPELINES, VALUES

MARK = "sEcReT-Ωβ-42"
ANY = settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))


def marked(value: Any) -> Any:
    """The same value with the mark in every text."""
    if isinstance(value, str):
        return value + MARK
    if isinstance(value, list):
        return [marked(element) for element in value]
    if isinstance(value, dict):
        return {name: marked(member) for name, member in value.items()}
    return value


def with_marked_names(value: Any) -> Any:
    """The same value with one more name in every object, which is the mark."""
    if isinstance(value, list):
        return [with_marked_names(element) for element in value]
    if isinstance(value, dict):
        return {name: with_marked_names(member) for name, member in value.items()} | {MARK: MARK}
    return value


@given(PIPELINES, ITEMS, st.booleans())
@ANY
def test_an_error_says_where_and_nothing_of_the_item(
    specs: list[Any], items: list[Any], extended: bool
) -> None:
    options = AdapterOptions(strict_index=extended, extensions=extended)
    try:
        pipeline = create_pipeline(specs, options)
    except AdapterConfigurationError:
        return
    for item in items:
        try:
            pipeline.push(with_marked_names(marked(item)))
        except AdapterRunError as error:
            texts = [*traceback.format_exception(error), repr(error), error.message, error.path]
            assert MARK not in "".join(texts)
            assert error.step is not None
            kinds = error.kind.split(" > ")
            assert kinds[0] == specs[error.step]["kind"]
            assert set(kinds) <= known_kinds()
            assert str(error).startswith(f"Adapter {error.step} ({error.kind})")
            if not isinstance(error, PatternTimeoutError | PatternGuardError):
                assert any(
                    base.__module__ != "podbay.schema.adapters._errors"
                    for base in type(error).__mro__
                    if issubclass(base, Exception) and base is not Exception
                )
            assert str(pickle.loads(pickle.dumps(error))) == str(error)


PAYLOADS = VALUES | st.fixed_dictionaries(
    {
        "name": st.text(max_size=2) | VALUES,
        "filename": st.text(max_size=2) | VALUES,
        "contentType": st.sampled_from(["text/plain", "a\nb"]) | VALUES,
        "content": st.binary(max_size=2) | VALUES,
        "formFields": st.dictionaries(st.text(max_size=2), st.text(max_size=2) | VALUES, max_size=2)
        | VALUES,
    }
)


@given(PAYLOADS, st.booleans())
@ANY
def test_envelopes_are_right_or_an_error_without_data(payload: Any, more: bool) -> None:
    item = marked({"$fileUpload": payload} | ({"more": 1} if more else {}))
    try:
        envelope = file_upload_envelope(item)
    except EnvelopeError as error:
        assert MARK not in "".join(traceback.format_exception(error))
    else:
        assert envelope is not None
        assert not more
