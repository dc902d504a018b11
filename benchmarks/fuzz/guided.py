"""Try parts by themselves with inputs that coverage guides: atheris, in an environment of its own.

`make fuzz` runs it. What an input reached that nothing had reached before is kept below build/fuzz,
and the next run begins there. An input that a part cannot bear is printed, and tried again by
`python -m benchmarks.fuzz.guided --part http1 --input BASE64`, which needs no atheris.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.environments import EnvironmentUnavailableError, environment, pins_of

__all__ = ["PARTS", "guided", "part"]

PARTS = ("http1", "adapters")

_ROOT = Path(__file__).resolve().parents[2]
_CHILD = Path(__file__).with_name("guided_child.py")
# An input on which a part spends so long is as bad as one that it cannot bear.
_TIMEOUT_SECONDS = 20
_START_SECONDS = 120.0
_MOST_MEMORY_MB = 1024
_MOST_BYTES = 2048
_SHOWN_LINES = 40


def part(name: str) -> Any:
    """Return the module of a part: its `attempt`, `SEEDS` and `DICTIONARY`."""
    return importlib.import_module(f"benchmarks.fuzz.part_{name}")


def guided(name: str, seconds: int) -> tuple[str, bytes | None]:
    """Try a part for a time.

    Args:
        name: The part.
        seconds: For how long.

    Returns:
        What is to be said of it, and an input that it cannot bear; None where there was none.

    Raises:
        EnvironmentUnavailableError: atheris cannot be installed, or does not start.
    """
    python = environment("fuzz", pins_of("fuzz.txt"))
    corpus = _ROOT / "build" / "fuzz" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in part(name).SEEDS:
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found"
        found.mkdir()
        words = Path(folder) / "words"
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in part(name).DICTIONARY))
        done = subprocess.run(
            [
                *(python, _CHILD, name, corpus, f"-dict={words}", f"-artifact_prefix={found}/"),
                *(f"-max_total_time={seconds}", f"-timeout={_TIMEOUT_SECONDS}"),
                *(f"-rss_limit_mb={_MOST_MEMORY_MB}", f"-max_len={_MOST_BYTES}"),
                *("-print_final_stats=1", "-verbosity=1"),
            ],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds + _TIMEOUT_SECONDS + _START_SECONDS,
            check=False,
        )
        inputs = sorted(found.iterdir())
        bad = inputs[0].read_bytes() if inputs else None
    if done.returncode and bad is None:
        lines = "\n".join(done.stdout.splitlines()[-_SHOWN_LINES:])
        raise EnvironmentUnavailableError(f"atheris ended with {done.returncode}:\n{lines}")
    if bad is not None:
        return "\n".join(done.stdout.splitlines()[-_SHOWN_LINES:]), bad
    tried = re.search(r"stat::number_of_executed_units:\s+(\d+)", done.stdout)
    covered = re.findall(r"cov: (\d+)", done.stdout)
    if tried is None or not covered:
        raise EnvironmentUnavailableError(f"atheris tells no figures:\n{done.stdout[-2000:]}")
    return f"{int(tried[1]):,} inputs, {covered[-1]} places reached", None


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz.guided", description=__doc__)
    parser.add_argument("--seconds", type=int, default=30, help="for each (default: %(default)s)")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one")
    parser.add_argument("--input", metavar="BASE64", help="try this, without atheris")
    arguments = parser.parse_args()
    parts = arguments.part or PARTS
    if arguments.input is not None:
        for name in parts:
            part(name).attempt(base64.b64decode(arguments.input))
        return 0
    failed = False
    for name in parts:
        try:
            said, bad = guided(name, arguments.seconds)
        except EnvironmentUnavailableError as error:
            print(f"{name} was not tried: {error}", file=sys.stderr)
            return 2
        print(f"{name}: {said}", flush=True)
        if bad is not None:
            failed = True
            shown = base64.b64encode(bad).decode("ascii")
            print(f"problem: {name} cannot bear {bad!r}", file=sys.stderr)
            print(
                f"again: python -m benchmarks.fuzz.guided --part {name} --input {shown}",
                file=sys.stderr,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
