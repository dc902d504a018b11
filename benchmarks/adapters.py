"""Measure the adapters beside the reference package, and write docs/performance-adapters.md.

Both run the same pipelines over the same items, in turn within each round; the table gives
medians, and the ratio is of two medians of one run.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import os
import platform
import statistics
import subprocess
import sys
import timeit
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.figures import table
from podbay.schema.adapters import create_pipeline
from tests.support.reference import Reference, ReferenceUnavailableError
from tests.support.reference_child import outcome, seconds

ROOT = Path(__file__).resolve().parent.parent

_PAGE = """# Performance of the adapters

Written by `python -m benchmarks.adapters` on {date}: Python {python}, {cores} cores, one of them
used; medians of {rounds} rounds of {items:,} items, Podbay and {reference} in turn within
each round, each in its own environment. Outputs are equal, which is checked first, and dropped one
by one. Figures of another machine differ; the ratios are what to compare.

{main}

## How to read it
- **A** and **B** are plain member paths, the usual case: Podbay resolves them once, when the
  pipeline is built, and walks them directly.
- **C**, **Drop**: no query is involved, and both sides do the same few operations on dicts and
  texts; Podbay only has less around them. A Drop of two members is one copy of a dict and two
  removals, which alone take most of its time; of C, more than half is joining names and putting
  them into new dicts. So they stay below the aim.
- **FileUpload**: decoding the base64 alone is {share:.0%} of the time that Podbay needs for an
  item, and the reference spends as long on it. That is the limit.
"""


class Case(NamedTuple):
    """A pipeline, an item of it, and how many times the reference's rate is aimed at."""

    name: str
    specs: list[dict[str, Any]]
    item: dict[str, Any]
    aim: int


_CHOICES = {
    "id": "cmpl-1",
    "created": 1700000000,
    "model": "m-1",
    "choices": [
        {"index": at, "text": f"answer {at}", "finish_reason": "stop", "meta": {"rank": 3 - at}}
        for at in range(4)
    ],
}
_EXPLODE = {"kind": "ExplodeCollections", "configuration": {"collections": ["choices"]}}
_INDEXED = {
    "kind": "ExplodeCollections",
    "configuration": {
        "collections": ["choices"],
        "index": {"_response_index_": None, "rank": "$.choices[*].meta.rank"},
    },
}
_NESTED = {
    "id": "x",
    "usage": {"tokens": 7},
    "created": 1700000000,
    "model": "m-1",
    "choices": [{"label": "foo", "metadata": {"value": at, "top": 0.5}} for at in range(2)],
}


def _transform(template: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "TransformJSON", "configuration": template}


def _fields(kind: str, *fields: str) -> dict[str, Any]:
    return {"kind": kind, "configuration": {"fields": list(fields)}}


_UPLOAD = Case(
    "FileUpload, 1 KiB of base64",
    [{"kind": "FileUpload", "configuration": {"field": "$.data"}}],
    {"data": base64.b64encode(bytes(range(256)) * 4).decode(), "mediaType": "image/png"},
    3,
)
CASES = [
    Case(
        "A: TransformJSON, one query and three literals",
        [_transform({"prompt": "$.text", "model": "m-1", "max_tokens": 100, "n": 4})],
        {"text": "Once upon a time", "_index_": 3},
        10,
    ),
    Case(
        "B: ExplodeCollections of 4, TransformJSON with one query",
        [_EXPLODE, _transform({"text": "$.choices.text"})],
        _CHOICES,
        10,
    ),
    Case(
        "C: Drop, Map(FlattenHierarchy) of 2, Rename, Select",
        [
            _fields("Drop", "usage", "created"),
            {
                "kind": "Map",
                "configuration": {
                    "collections": ["choices"],
                    "adapter": {"kind": "FlattenHierarchy", "configuration": {"addPrefix": True}},
                },
            },
            {"kind": "Rename", "configuration": {"choices": "responses"}},
            _fields("Select", "responses", "id"),
        ],
        _NESTED,
        3,
    ),
    Case(
        "B with an index query, an index position, a second query",
        [
            _INDEXED,
            _transform({"text": "$.choices.text", "rank": "$.rank"}),
        ],
        _CHOICES,
        3,
    ),
    Case(
        "TransformJSON, one query and a computation of three steps",
        [
            _transform(
                {
                    "id": "$.object.id",
                    "letters": {
                        "$compute": [
                            {"$scalar": "$.object.id"},
                            {"$func": "sub", "pattern": "[A-Za-z]", "repl": ""},
                            {"$func": "list"},
                        ]
                    },
                }
            )
        ],
        {"object": {"id": "abc123", "name": "spam"}, "list": [1, 2]},
        3,
    ),
    _UPLOAD,
    Case("Drop", [_fields("Drop", "usage", "created")], _NESTED, 3),
]


class Row(NamedTuple):
    """What a case has given: the medians of items in per second."""

    case: Case
    ours: float
    theirs: float


def measure(reference: Reference, case: Case, rounds: int, count: int) -> Row:
    """Measures a case, after a look at whether both sides do the same."""
    pipeline = create_pipeline(case.specs)
    ours = outcome(case.specs, [case.item], dict, create_pipeline)
    asked = {"specs": case.specs, "items": [case.item], "validated": False}
    if reference.adapt([asked]) != [ours]:
        raise AssertionError(f"{case.name}: the outputs differ")
    our_rounds, their_rounds = [], []
    for _ in range(rounds):
        our_rounds.append(seconds(pipeline, case.item, count))
        their_rounds.append(reference.measure(case.specs, case.item, count))
    row = Row(case, count / statistics.median(our_rounds), count / statistics.median(their_rounds))
    print(f"{case.name:<60} {row.ours:>12,.0f}/s  {row.ours / row.theirs:.1f}x", flush=True)
    return row


def page(rows: list[Row], rounds: int, count: int) -> str:
    """Returns the page of a run."""
    headers = ["pipeline", "dyff-schema, items/s", "Podbay, items/s", "ratio", "aim"]
    lines = [
        [
            row.case.name,
            f"{row.theirs:,.0f}",
            f"{row.ours:,.0f}",
            f"**{row.ours / row.theirs:.1f}×**",
            f"≥ {row.case.aim}×",
        ]
        for row in rows
    ]
    pins = (ROOT / "requirements" / "reference.txt").read_text(encoding="utf-8").splitlines()
    return _PAGE.format(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        python=platform.python_version(),
        cores=os.cpu_count(),
        rounds=rounds,
        items=count,
        reference=next(line for line in pins if line.startswith("dyff-schema")),
        main=table(headers, lines),
        share=_decoding_share(rounds, count),
    )


def _decoding_share(rounds: int, count: int) -> float:
    """Which part of the time of the upload goes into decoding what it holds."""
    pipeline = create_pipeline(_UPLOAD.specs)
    data = _UPLOAD.item["data"]
    return statistics.median(
        timeit.timeit(lambda: binascii.a2b_base64(data), number=count)
        / seconds(pipeline, _UPLOAD.item, count)
        for _ in range(rounds)
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapters", description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="(default: %(default)s)")
    parser.add_argument("--items", type=int, default=5000, help="(default: %(default)s)")
    output = ROOT / "docs" / "performance-adapters.md"
    parser.add_argument("--output", type=Path, default=output, help="the page to write")
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # How names collide in small dicts changes the figures by half: the same on both sides.
        again = [sys.executable, "-m", "benchmarks.adapters", *sys.argv[1:]]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        return subprocess.run(again, cwd=ROOT, env=environment, check=False).returncode
    try:
        with Reference() as reference:
            rows = [measure(reference, case, arguments.rounds, arguments.items) for case in CASES]
    except ReferenceUnavailableError as error:
        print(f"The comparison needs the reference package: {error}", file=sys.stderr)
        return 2
    arguments.output.write_text(page(rows, arguments.rounds, arguments.items), encoding="utf-8")
    print(f"\nwritten: {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
