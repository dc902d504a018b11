"""Serving options, and how annotations keep them."""

from typing import Any

import pytest
from pydantic import ValidationError

from podbay.schema.platform import Annotation
from podbay.schema.serving import ServingOptions, default_readiness_path

_ALL = ServingOptions(
    readiness_path="/healthz?full=1",
    start_timeout=2.5,
    stop_grace=0,
    max_concurrency=4,
    safe_to_retry=True,
    max_in_flight=9,
    queue_length=0,
    queue_timeout=1.5,
    hedge_after=0.25,
)


def test_annotations_of_options() -> None:
    assert [(a.key, a.value) for a in _ALL.to_annotations()] == [
        ("podbay.dev/readiness-path", "/healthz?full=1"),
        ("podbay.dev/start-timeout", "2.5"),
        ("podbay.dev/stop-grace", "0"),
        ("podbay.dev/max-concurrency", "4"),
        ("podbay.dev/safe-to-retry", "true"),
        ("podbay.dev/max-in-flight", "9"),
        ("podbay.dev/queue-length", "0"),
        ("podbay.dev/queue-timeout", "1.5"),
        ("podbay.dev/hedge-after", "0.25"),
    ]
    assert ServingOptions.from_annotations(_ALL.to_annotations()) == _ALL
    assert ServingOptions().to_annotations() == []


def test_small_numbers_are_written_without_an_exponent() -> None:
    (annotation,) = ServingOptions(start_timeout=0.00001).to_annotations()
    assert annotation.value == "0.00001"


def test_other_annotations_do_not_matter() -> None:
    others = [Annotation(key="podbay.dev/other", value="x"), Annotation(key="a", value="b")]
    assert ServingOptions.from_annotations(others) == ServingOptions()


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("readiness-path", "ready", "readinessPath"),
        ("readiness-path", "/a b", "readinessPath"),
        ("readiness-path", "/a\r\nb", "readinessPath"),
        ("start-timeout", "1e3", "startTimeout"),
        ("start-timeout", "nan", "startTimeout"),
        ("start-timeout", "0", "startTimeout"),
        ("start-timeout", "-1", "startTimeout"),
        ("stop-grace", "٣", "stopGrace"),
        ("stop-grace", "999999", "stopGrace"),
        ("max-concurrency", "0", "maxConcurrency"),
        ("max-concurrency", "1.5", "maxConcurrency"),
        ("safe-to-retry", "True", "safeToRetry"),
        ("max-in-flight", "0", "maxInFlight"),
        ("queue-length", "-1", "queueLength"),
        ("queue-timeout", "soon", "queueTimeout"),
        ("hedge-after", "0.5", "hedgeAfter"),
    ],
)
def test_annotations_of_another_form_are_refused(key: str, value: str, field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ServingOptions.from_annotations([Annotation(key=f"podbay.dev/{key}", value=value)])
    assert [e["loc"] for e in caught.value.errors()] == [(field,)]


def test_an_option_that_comes_twice_is_refused() -> None:
    twice = [Annotation(key="podbay.dev/max-concurrency", value=v) for v in ("1", "2")]
    with pytest.raises(ValidationError, match="more than once"):
        ServingOptions.from_annotations(twice)


@pytest.mark.parametrize(
    "values",
    [
        {"start_timeout": "5"},
        {"start_timeout": float("inf")},
        {"max_concurrency": True},
        {"safe_to_retry": 1},
        {"unknown": 1},
    ],
)
def test_options_are_strict(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ServingOptions.model_validate(values)


def test_readiness_path_by_kind_of_runner() -> None:
    assert default_readiness_path("vllm") == "/health"
    assert default_readiness_path("mock") == "/ready"
