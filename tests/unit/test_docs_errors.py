"""docs/errors.md and the catalogue name the same reasons."""

from __future__ import annotations

import re
from pathlib import Path

from podbay.v1 import errors_pb2
from podbay_kit.errors import CODES, reason_name

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "errors.md").read_text(encoding="utf-8")


def test_every_reason_is_explained_and_none_is_invented():
    named = set(re.findall(r"`([A-Z][A-Z_]{5,})`", PAGE))
    reasons = {
        reason_name(number)
        for number in errors_pb2.ErrorReason.values()
        if number != errors_pb2.ERROR_REASON_UNSPECIFIED
    }
    assert named == reasons


def test_the_codes_in_the_tables_are_those_that_are_sent():
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", PAGE, re.MULTILINE)
    assert len(rows) > 25
    for reason, code in rows:
        assert CODES[errors_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}")].name == code
