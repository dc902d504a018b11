"""Collect the wheels that images are made of: `python requirements/wheels.py SET FOLDER`.

The sets are `platform`, for Dockerfile, `examples`, for examples.Dockerfile, and `own`: our wheel
alone. Images are built without network. What goes into them are the versions of
requirements/dev.txt, for Linux and Python 3.11, whatever this machine has.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETS = {
    "platform": ("podbay[local,docker,models,postgres]",),
    # The services are programs like any: they need nothing of what Podbay needs.
    "examples": (
        "httptools",
        "magika",
        "onnxruntime",
        "python-multipart",
        "rapidocr",
        "starlette",
        "uvicorn",
        "uvloop",
    ),
    "own": (),
}
PYTHON = "3.11"
# From the oldest on: what a wheel asks for of its C library.
GLIBC = ("2_5", "2_12", "2_17", "2_24", "2_26", "2_27", "2_28", "2_31", "2_34")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def constraints() -> str:
    """Return the pinned versions without their hashes, which our own wheel has none of."""
    text = (ROOT / "requirements" / "dev.txt").read_text()
    return "\n".join(re.findall(r"^[A-Za-z0-9._-]+==[^\\\n]+", text, re.MULTILINE))


def build_own(folder: Path) -> None:
    """Build our wheel in place of the one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("podbay-*.whl"):
        old.unlink()
    own = ["wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", str(ROOT)]
    subprocess.run([*PIP, *own], check=True)  # noqa: S603 # pip of this environment


def fetch(requirements: tuple[str, ...], folder: Path) -> None:
    """Fetch pip, and what the requirements need beside our wheel."""
    machine = platform.machine()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pinned:
        pinned.write(constraints())
        pinned.flush()
        subprocess.run(  # noqa: S603 # pip of this environment
            [
                *PIP,
                "download",
                "--only-binary=:all:",
                f"--python-version={PYTHON}",
                "--implementation=cp",
                *(f"--platform=manylinux_{version}_{machine}" for version in reversed(GLIBC)),
                f"--platform=manylinux2014_{machine}",
                f"--find-links={folder}",
                f"--constraint={pinned.name}",
                f"--dest={folder}",
                "pip",
                *requirements,
            ],
            check=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    build_own(given.folder)
    if SETS[given.set]:
        fetch(SETS[given.set], given.folder)
