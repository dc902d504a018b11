"""Measure the adapters beside the reference package, and write docs/performance-adapters.md.

Both run the same pipelines over the same items, in turn within each round; the table gives
medians, and the ratio is of two medians of one run.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.adapter_cases import DROP, FAILURES, KINDS, MAIN, Case
from benchmarks.figures import table
from podbay.schema.adapters import create_pipeline
from tests.support.reference import Reference, ReferenceUnavailableError
from tests.support.reference_child import outcome, seconds

ROOT = Path(__file__).resolve().parent.parent

_PAGE = """# Performance of the adapters

Written by `python -m benchmarks.adapters` on {date}: Python {python}, {cores} cores, one of them
used, and only the time counted that it worked for the process; medians of {rounds} rounds of
{items:,} items, Podbay and {reference} in turn within each round, each in its own
environment. Outputs are equal, which is checked first, and dropped one by one. Figures of another
machine differ; the ratios are what to compare.

{main}

## How to read it
- **A** and **B** are plain member paths, the usual case: Podbay resolves them once, when the
  pipeline is built, and walks them directly.
- **C**: no query is involved, and both sides do the same few operations on dicts and texts. Podbay
  compiles adapters that stand in a row into one function, and copies an item once for all of them.
- **Drop** is one copy of a dict and a removal for each member. A loop in Python that only copies
  the items does {copies:,.0f} a second, {copies_ratio:.1f}× the reference's rate. One that also
  removes the two members, written for just these, does {floor:,.0f} ({floor_ratio:.1f}×), and
  Podbay {share:.0%} of that. So 3× is out of reach for anything that is written in Python.
- **FileUpload**: base64 that is exactly as it should be is decoded by pybase64, everything else by
  the standard library, which decides what it means.

## Every kind, and pipelines for language models

Never slower is the aim; a third of the rounds. *One item a run* is what a client does: a run for
each item.

{kinds}

- A **literal** of `$compute` is copied for each output. The reference gives out one object again
  and again: who changes one output there changes the next. So a large literal is slower here.
- A **pattern that may run away** is applied in a process that can be ended, which takes a few tens
  of microseconds more than the pattern itself, and as long as it may if it does run away. A pattern
  that cannot take long for its text is applied in place.

## Items that fail

A run for each item, from the item to the error. Podbay's errors know the step, the kind and the
place, and hold nothing of the item. To make one takes about a microsecond more than to let Python's
own pass, so what the reference refuses by a bare exception of Python's is refused a little later.

{failures}
"""


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
    (theirs,) = reference.adapt([asked])
    same = all(ours[part] == theirs[part] for part in ("outputs", "phase"))
    if not same or not set(theirs["error"][:1]) <= set(ours["error"]):
        raise AssertionError(f"{case.name}: {ours} is not {theirs}")
    our_rounds, their_rounds = [], []
    for _ in range(rounds):
        our_rounds.append(seconds(pipeline, case.item, count, calls=case.calls))
        their_rounds.append(reference.measure(case.specs, case.item, count, calls=case.calls))
    row = Row(case, count / statistics.median(our_rounds), count / statistics.median(their_rounds))
    print(f"{case.name:<60} {row.ours:>12,.0f}/s  {row.ours / row.theirs:.1f}x", flush=True)
    return row


def page(tables: list[list[Row]], rounds: int, count: int) -> str:
    """Returns the page of a run."""
    pins = (ROOT / "requirements" / "reference.txt").read_text(encoding="utf-8").splitlines()
    main, kinds, failures = (table(_HEADERS, [_line(row) for row in rows]) for rows in tables)
    drop = next(row for rows in tables for row in rows if row.case is DROP)
    copies, floor = (
        count / statistics.median(_loop_seconds(loop, count) for _ in range(rounds))
        for loop in (_copy_only, _copy_and_drop)
    )
    return _PAGE.format(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        python=platform.python_version(),
        cores=os.cpu_count(),
        rounds=rounds,
        items=count,
        reference=next(line for line in pins if line.startswith("dyff-schema")),
        main=main,
        kinds=kinds,
        failures=failures,
        copies=copies,
        copies_ratio=copies / drop.theirs,
        floor=floor,
        floor_ratio=floor / drop.theirs,
        share=drop.ours / floor,
    )


_HEADERS = ["pipeline", "dyff-schema, items/s", "Podbay, items/s", "ratio", "aim"]


def _line(row: Row) -> list[str]:
    return [
        row.case.name,
        f"{row.theirs:,.0f}",
        f"{row.ours:,.0f}",
        f"**{row.ours / row.theirs:.1f}×**",
        f"≥ {row.case.aim}×",
    ]


def _copy_only(items: Iterable[dict[str, Any]]) -> Iterator[Any]:
    for item in items:
        yield item.copy()


def _copy_and_drop(items: Iterable[dict[str, Any]]) -> Iterator[Any]:
    for item in items:
        kept = item.copy()
        kept.pop("usage", None)
        kept.pop("created", None)
        yield kept


def _loop_seconds(loop: Callable[[Iterable[Any]], Iterator[Any]], count: int) -> float:
    return seconds(loop, DROP.item, count, calls=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapters", description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="(default: %(default)s)")
    parser.add_argument("--items", type=int, default=2000, help="(default: %(default)s)")
    output = ROOT / "docs" / "performance-adapters.md"
    parser.add_argument("--output", type=Path, default=output, help="the page to write")
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # How names collide in small dicts changes the figures by half: the same on both sides.
        again = [sys.executable, "-m", "benchmarks.adapters", *sys.argv[1:]]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        return subprocess.run(again, cwd=ROOT, env=environment, check=False).returncode
    rounds, count = arguments.rounds, arguments.items
    fewer = max(1, rounds // 3)  # for the long tables
    try:
        with Reference() as reference:
            tables = [
                [measure(reference, case, times, count) for case in cases]
                for cases, times in ((MAIN, rounds), (KINDS, fewer), (FAILURES, fewer))
            ]
    except ReferenceUnavailableError as error:
        print(f"The comparison needs the reference package: {error}", file=sys.stderr)
        return 2
    arguments.output.write_text(page(tables, rounds, count), encoding="utf-8")
    print(f"\nwritten: {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
