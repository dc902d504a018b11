"""One part tried by atheris, in the environment that has it: `python guided_child.py PART …`.

What follows PART goes to libFuzzer.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    import atheris  # noqa: PLC0415 # only its own environment has it

    name = sys.argv.pop(1)
    sys.path[:0] = [str(_ROOT), str(_ROOT / "client"), str(_ROOT / "services")]
    with atheris.instrument_imports(include=["podbay_inference_router", "podbay.schema"]):
        part = importlib.import_module(f"benchmarks.fuzz.part_{name}")
    atheris.Setup(sys.argv, part.attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
