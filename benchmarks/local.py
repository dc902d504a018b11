"""Measure the local platform beside the reference's, and write docs/performance-local.md.

Imports are whole processes, Podbay's and the reference's in turn within each round. The rest is
measured inside one process of each, as a script would see it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.figures import table
from tests.support.reference import ReferenceUnavailableError, reference_python

ROOT = Path(__file__).resolve().parent.parent

_PAGE = """# Performance of the local platform

Written by `python -m benchmarks.local` on {date}: Python {python}, {cores} cores, load average
{load:.1f} at the start. The reference is {reference},
in an environment of its own. Figures of another machine differ; the ratios are what to compare.

## Import

Whole processes (`python -c …`), medians of {rounds} rounds in which all take turns; a bare
interpreter takes {bare:.0f} ms.

{imports}

The second and fourth line are what a script that goes on pays in the end: Podbay imports what a
client needs when one is made. The aims are for the imports.

## A script's first answer

Medians of {starts} sessions each, in one process; the reference calls the mock within the script,
so that it has nothing to start.

{firsts}

## A call

`infer` of one session's client, one at a time, {calls:,} calls: the reference calls the mock's
method, Podbay goes through its router to a web server as it does everywhere.

{calls_table}
"""

_IMPORTS = (
    ("client", "from podbay import Client", "from dyff.client import Client", 5),
    (
        "client, and one made",
        "from podbay import Client; Client('127.0.0.1:1', 'token')",
        "from dyff.client import Client; Client(endpoint='http://127.0.0.1:1', api_token='token')",
        None,
    ),
    (
        "local platform",
        "from podbay.local import LocalPlatform, mocks",
        "from dyff.audit.local import DyffLocalPlatform, mocks",
        8,
    ),
    (
        "local platform, and one made",
        (
            "import sys; from podbay.local import LocalPlatform, mocks; "
            "LocalPlatform(sys.argv[1]); import os; os._exit(0)"
        ),
        (
            "import sys; from dyff.audit.local import DyffLocalPlatform, mocks; "
            "DyffLocalPlatform(sys.argv[1])"
        ),
        None,
    ),
)


class Pair(NamedTuple):
    """What both sides took, in seconds."""

    name: str
    ours: float
    theirs: float
    aim: int | None


def measure_imports(reference: Path, rounds: int) -> list[Pair]:
    """Measures what a process takes that does no more than import."""
    ours: dict[str, list[float]] = {name: [] for name, *_ in _IMPORTS}
    theirs: dict[str, list[float]] = {name: [] for name, *_ in _IMPORTS}
    for _ in range(rounds):
        for name, podbay, dyff, _ in _IMPORTS:
            ours[name].append(_process(Path(sys.executable), podbay))
            theirs[name].append(_process(reference, dyff))
    pairs = [
        Pair(name, statistics.median(ours[name]), statistics.median(theirs[name]), aim)
        for name, _, _, aim in _IMPORTS
    ]
    for pair in pairs:
        print(f"{pair.name:<32} {pair.ours * 1e3:>8.0f} ms  1/{pair.theirs / pair.ours:.1f}")
    return pairs


def _process(python: Path, code: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        subprocess.run(
            [str(python), "-W", "ignore", "-c", code, f"{folder}/root"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        took = time.perf_counter() - begun
        # A platform that was left to itself ends with its user; its folder is in use until then.
        while (Path(folder) / "root" / "up.json").exists():
            time.sleep(0.05)
        return took


def measure_script(python: Path, side: str, starts: int, calls: int) -> dict[str, Any]:
    """Measures what a script sees, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                *(str(python), "-W", "ignore", str(ROOT / "benchmarks" / f"local_{side}.py")),
                *(f"{folder}/root", str(starts), str(calls)),
            ],
            cwd=folder,
            stdout=subprocess.PIPE,
            check=True,
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def page(
    imports: list[Pair], podbay: dict[str, Any], dyff: dict[str, Any], facts: dict[str, Any]
) -> str:
    """Returns the page of a run."""
    import_rows = [
        [
            pair.name,
            f"{pair.theirs * 1e3:,.0f}",
            f"{pair.ours * 1e3:,.0f}",
            f"**1/{pair.theirs / pair.ours:.1f}**",
            "" if pair.aim is None else f"≤ 1/{pair.aim}",
        ]
        for pair in imports
    ]
    first_rows = [
        [
            "starting the platform",
            f"{dyff['start'] * 1e3:,.0f}",
            f"{podbay['start'] * 1e3:,.0f}",
            "",
        ],
        *(
            [
                f"create a session → first answer, {name}",
                "" if theirs is None else f"{dyff[theirs] * 1e3:,.1f}",
                f"**{podbay[ours] * 1e3:,.1f}**",
                aim,
            ]
            for name, ours, theirs, aim in (
                ("`TextCompletion`", "first", "first", "≤ 100"),
                ("a class of the script", "first_own", "first_own", "≤ 100"),
                ("a class of a module", "first_module", None, ""),
            )
        ),
        ["stopping the platform", "", f"{podbay['stop'] * 1e3:,.0f}", ""],
    ]
    call_rows = [
        [
            name,
            f"{dyff[key]['p50'] * 1e3:.3f}",
            f"**{podbay[key]['p50'] * 1e3:.3f}**",
            f"{podbay[key]['p99'] * 1e3:.3f}",
            "p50 ≤ 1",
        ]
        for name, key in (("`TextCompletion`", "call"), ("a class of the script", "call_own"))
    ]
    return _PAGE.format(
        imports=table(["import", "reference, ms", "Podbay, ms", "ratio", "aim"], import_rows),
        firsts=table(["", "reference, ms", "Podbay, ms", "aim, ms"], first_rows),
        calls_table=table(
            ["mock", "reference, p50 ms", "Podbay, p50 ms", "p99 ms", "aim, ms"], call_rows
        ),
        **facts,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.local", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--starts", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--calls", type=int, default=3000, help="(default: %(default)s)")
    output = ROOT / "docs" / "performance-local.md"
    parser.add_argument("--output", type=Path, default=output, help="the page to write")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    try:
        reference = reference_python("reference-audit")
    except ReferenceUnavailableError as error:
        print(f"The comparison needs the reference packages: {error}", file=sys.stderr)
        return 2
    bare = statistics.median(_process(Path(sys.executable), "pass") for _ in range(7))
    imports = measure_imports(reference, arguments.rounds)
    starts, calls = arguments.starts, arguments.calls
    podbay = measure_script(Path(sys.executable), "podbay", starts, calls)
    dyff = measure_script(reference, "reference", starts, calls)
    pins = (ROOT / "requirements" / "reference-audit.txt").read_text(encoding="utf-8").splitlines()
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": load,
        "bare": bare * 1e3,
        "rounds": arguments.rounds,
        "starts": starts,
        "calls": calls,
        "reference": " and ".join(line for line in pins if line.startswith(("dyff-a", "dyff-c"))),
    }
    arguments.output.write_text(page(imports, podbay, dyff, facts), encoding="utf-8")
    print(f"\nwritten: {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
