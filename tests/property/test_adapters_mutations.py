"""The recorded cases with anything in any place: only errors of adapters come out."""

import json
import random
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podbay.schema.adapters import (
    AdapterConfigurationError,
    AdapterOptions,
    AdapterRunError,
    create_pipeline,
)

_CASES = json.loads((Path(__file__).parents[1] / "vectors" / "adapters.json").read_text("utf-8"))
_ODD: list[Any] = [
    *(None, True, 0, -1, 2**63, 10**400, 1e308, float("inf"), float("nan"), -0.0, [], {}),
    *("", "$", "$$", "$.", "$..*", "$.a.`parent`.`parent`", "`this`", "(" * 500, "x" * 5_000),
    *("(a*)*b", "a{1,99999}", "\\9", "\\g<99999999999>", "\ud800", "\x00", "é", "$fileUpload"),
    *({"$compute": []}, {"$compute": None}, {"$fileUpload": 1}, ["$"] * 50),
]
_NAMES = [
    *("kind", "configuration", "adapter", "adapters", "fields", "collections", "index", "depth"),
    *("$func", "$list", "$scalar", "$literal", "$compute", "pattern", "flags", "group", "count"),
    *("maxsplit", "separator", "default", "encoding", "formFields", "filename", "a", "b"),
]


def _parts(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(part for one in inner for part in _parts(one))]


_PARTS = [part for case in _CASES for part in _parts([case["pipeline"], case["input"]])]


def _any(rng: random.Random) -> Any:
    choice = rng.random()
    if choice < 0.6:
        return rng.choice(_PARTS)
    if choice < 0.95:
        return rng.choice(_ODD)
    nested: Any = rng.choice(_ODD)
    for _ in range(rng.choice([5, 50, 400, 5_000])):
        nested = [nested] if rng.random() < 0.5 else {"a": nested}
    return nested


def _mutated(value: Any, rng: random.Random) -> Any:
    if rng.random() < 0.05:
        return _any(rng)
    if isinstance(value, dict):
        made = {name: _mutated(member, rng) for name, member in value.items()}
        if rng.random() < 0.05:
            made[rng.choice(_NAMES)] = _any(rng)
        return made
    if isinstance(value, list):
        return [_mutated(element, rng) for element in value]
    return value


@given(st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_only_errors_of_adapters_come_out(source: random.Random) -> None:
    rng = random.Random(source.getrandbits(64))
    for _ in range(40):
        specs: list[Any] = []
        for case in rng.sample(_CASES, rng.choice([1, 1, 2])):
            specs += [_mutated(spec, rng) for spec in case["pipeline"]]
            items = [_mutated(item, rng) for item in case["input"]]
        options = AdapterOptions(
            strict_index=rng.random() < 0.3, extensions=rng.random() < 0.4, pattern_seconds=0.05
        )
        try:
            for _output in create_pipeline(specs, options).apply(items):
                pass
        except (AdapterConfigurationError, AdapterRunError) as error:
            assert str(error)
