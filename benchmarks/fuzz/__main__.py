"""Attack a whole installation, and see that it answers well, stays as it was, and serves others.

`make fuzz` runs it; `tests/e2e/test_fuzz.py` is its short form. Good calls run all the time: alone
at first, then beside a core that is busy, then beside the attack. How much the attack made their
p99 grow is part of the report.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.fuzz.run import Outcome, fuzz


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument(
        "--frames", type=int, default=200, help="frames of each attack (default: %(default)s)"
    )
    arguments = parser.parse_args()
    outcome = fuzz(arguments.seconds, seed=arguments.seed, frames=arguments.frames)
    _show(outcome)
    problems = [*outcome.problems(), *outcome.slowness()]
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _show(outcome: Outcome) -> None:
    report = outcome.report
    print(f"random calls: {sum(report.codes.values()):,} of {len(report.methods)} methods")
    for code, count in sorted(report.codes.items(), key=lambda item: -item[1]):
        print(f"  {code:<22} {count:>8,}")
    print("attacks by frames (of them ended by the server)")
    for name, count in sorted(report.attacks.items()):
        print(f"  {name:<26} {count:>5,} ({report.refused.get(name, 0):,})")
    core = outcome.attacker_core
    print(f"the attacker {'shared all cores' if core is None else f'had core {core} for itself'}")
    print("good calls, p50/p99 ms       alone    beside a busy core    beside the attack   ratio")
    for name, good in outcome.good.items():
        figures = "".join(
            f"{p50:>10.1f} {p99:>8.1f}" for p50, p99 in (good.alone, good.busy, good.beside)
        )
        print(f"  {name:<20}{figures}   {good.ratio:>5.2f}  {good.failed} failed")
    for name, share in outcome.cpu.items():
        print(f"  {name:<22} {share:>6.0%} of a core beside the attack")
    print("processes       RSS MB before  warm  after    files before  after")
    for name, use in outcome.uses.items():
        before, warm, after = use
        print(
            f"  {name:<22} {before.memory >> 20:>5} {warm.memory >> 20:>5} {after.memory >> 20:>6}"
            f"    {before.files:>8} {after.files:>8}"
        )


if __name__ == "__main__":
    sys.exit(main())
