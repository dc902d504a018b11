"""The adapters by themselves: recorded pipelines and items with anything in any place.

Only the errors of adapters come out, and in bounded time.
"""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any, Final

from benchmarks.fuzz.choices import Choices
from podbay.schema.adapters import (
    AdapterConfigurationError,
    AdapterOptions,
    AdapterRunError,
    create_pipeline,
)

__all__ = ["DICTIONARY", "SEEDS", "attempt"]

_VECTORS = Path(__file__).resolve().parents[2] / "tests" / "vectors" / "adapters.json"
_CASES: Final[list[Any]] = json.loads(_VECTORS.read_text(encoding="utf-8"))
_ODD: Final[list[Any]] = [
    *(None, True, 0, -1, 2**63, 10**400, 1e308, float("inf"), float("nan"), -0.0, [], {}),
    *("", "$", "$.a.`parent`", "`this`", "(" * 200, "(a*)*b", "\ud800", "$fileUpload"),
    *({"$compute": []}, {"$fileUpload": 1}, {"$literal": 1}, ["$"] * 20),
]
_NAMES: Final = sorted(
    {
        name
        for case in _CASES
        for spec in case["pipeline"]
        if isinstance(spec, dict) and isinstance(spec.get("configuration"), dict)
        for name in spec["configuration"]
    }
)
# What explodes may explode again: nobody reads on for ever.
_MOST_OUTPUTS = 1_000

SEEDS: Final = tuple(
    number.to_bytes(2, "big") + bytes((0, 1, 2, kind)) + text
    for number in range(len(_CASES))
    for kind, text in ((0, b"$.a.b"), (3, b"\x08$..[?(@.a)]\x02"))
)
DICTIONARY: Final = (
    *(b"$", b"$.", b"$..", b"[*]", b"[?(@.", b"`parent`", b"`sub(", b"`split(", b"`len`", b".a"),
    *(b"[0]", b"[-1]", b"[1:2:3]", b"|", b"&", b"==", b"=~", b"(?:", b"(?P<n>", b"{1,9}", b"\\\\1"),
    *(b"$compute", b"$literal", b"$list", b"$scalar", b"$func", b"grep", b"search", b"findall"),
)


def attempt(data: bytes) -> None:
    """Change a recorded case as bytes say, and run it.

    Raises:
        AssertionError: An error says nothing.
        Exception: What is no error of adapters, and is a defect.
    """
    choices = Choices(data)
    case = copy.deepcopy(choices.of(_CASES))
    options = AdapterOptions(
        strict_index=choices.below(2) == 1, extensions=choices.below(2) == 1, pattern_seconds=0.05
    )
    whole: dict[str, Any] = {"pipeline": case["pipeline"], "input": case["input"]}
    for _ in range(1 + choices.below(4)):
        part = choices.of(["pipeline", "pipeline", "input"])
        whole[part] = _changed(whole[part], choices)
    specs, items = (part if isinstance(part, list) else [part] for part in whole.values())
    try:
        outputs = create_pipeline(specs, options).apply(items)
        for _output in itertools.islice(outputs, _MOST_OUTPUTS):
            pass
    except (AdapterConfigurationError, AdapterRunError) as error:
        if not str(error):
            raise AssertionError("an error says nothing") from error


def _changed(value: Any, choices: Choices) -> Any:
    """Change a value somewhere."""
    if isinstance(value, dict) and value and choices.below(8):
        name = choices.of(list(value))
        return {**value, name: _changed(value[name], choices)}
    if isinstance(value, list) and value and choices.below(8):
        at = choices.below(len(value))
        return [*value[:at], _changed(value[at], choices), *value[at + 1 :]]
    return _other(value, choices)


def _other(value: Any, choices: Choices) -> Any:
    """Return something else than a value."""
    kind = choices.below(8)
    if kind == 0:
        return choices.text()
    if kind == 1 and isinstance(value, str):
        at = choices.below(len(value) + 1)
        return value[:at] + choices.text() + value[at + choices.below(4) :]
    if kind == 2:
        return choices.of(_ODD)
    if kind == 3:
        other = choices.of(_CASES)
        return copy.deepcopy(choices.of([other["pipeline"], other["input"]]))
    if kind == 4 and isinstance(value, dict):
        return {**value, choices.of(_NAMES): choices.of(_ODD)}
    if kind == 5 and isinstance(value, dict):
        return {**value, choices.text(): choices.text()}
    if kind == 6:
        return [value] * choices.below(4)
    return choices.below(65_536) - 100
