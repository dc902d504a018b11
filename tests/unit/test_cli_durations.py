"""Durations and times as people type them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from podbay.cli.durations import expiry, parse_duration

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("45s", 45), ("1.5m", 90), ("1h30m", 5400), ("2d", 172800), ("1w", 604800)],
)
def test_a_duration_is_read(text: str, seconds: float):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "1h 30m", "1y", "one hour"])
def test_what_is_no_duration_is_refused_with_examples(text: str):
    with pytest.raises(ValueError, match="1h30m"):
        parse_duration(text)


def test_an_expiry_is_a_duration_from_now_or_a_time():
    assert expiry("1h", NOW) == NOW + timedelta(hours=1)
    assert expiry("2030-01-01T03:00:00+02:00", NOW) == NOW + timedelta(hours=1)
    assert expiry("2030-01-01T01:00:00Z", NOW) == NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2031-01-01T00:00:00", "no offset"),
        ("2029-01-01T00:00:00Z", "not in the future"),
        ("0s", "not in the future"),
        ("tomorrow", "neither a duration"),
        ("999999999999w", "too long"),
    ],
)
def test_an_expiry_that_cannot_be_is_refused_with_the_reason(text: str, why: str):
    with pytest.raises(ValueError, match=why):
        expiry(text, NOW)
