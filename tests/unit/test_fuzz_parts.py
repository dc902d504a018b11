"""What `make fuzz` tries by itself: it bears all the inputs that a run begins with."""

from __future__ import annotations

import random

import pytest

from benchmarks.fuzz import part_http1
from benchmarks.fuzz.choices import Choices
from benchmarks.fuzz.guided import PARTS, part
from podbay_inference_router.framing import EventFramer


@pytest.mark.parametrize("name", PARTS)
def test_parts_bear_the_inputs_that_a_run_begins_with(name: str) -> None:
    rng = random.Random(1)
    for seed in part(name).SEEDS:
        part(name).attempt(seed)
        changed = bytearray(seed)
        changed[rng.randrange(len(changed))] = rng.randrange(256)
        part(name).attempt(bytes(changed))


def test_a_reader_that_depends_on_the_cuts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        EventFramer, "_unify", lambda _, data: data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    )
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    with pytest.raises(AssertionError, match="became"):
        part_http1.attempt(b"\x01\x00" + head + b"data: 1\r\ndata: 2\r\n\r\n")


def test_choices_end_with_the_first() -> None:
    choices = Choices(b"\x05\x01\x02\x03ab\xff")
    assert choices.below(4) == 1
    assert choices.below(1000) == 258
    assert choices.text() == "ab\udcff"
    assert choices.of("xyz") == "x"
    assert choices.rest() == b""
