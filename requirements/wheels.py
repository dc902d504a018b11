"""Collect the wheels that the images are made of: `python requirements/wheels.py FOLDER`.

Images are built without network. What goes into them are the versions of requirements/dev.txt, for
Linux and Python 3.11, whatever this machine has.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "local,docker,models"
PYTHON = "3.11"
# From the oldest on: what a wheel asks for of its C library.
GLIBC = ("2_5", "2_12", "2_17", "2_24", "2_26", "2_27", "2_28", "2_31", "2_34")


def constraints() -> str:
    """Return the pinned versions without their hashes, which our own wheel has none of."""
    text = (ROOT / "requirements" / "dev.txt").read_text()
    return "\n".join(re.findall(r"^[A-Za-z0-9._-]+==[^\\\n]+", text, re.MULTILINE))


def collect(folder: Path) -> None:
    """Build our wheel and fetch all others."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("podbay-*.whl"):
        old.unlink()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    own = ["wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", str(ROOT)]
    subprocess.run([*pip, *own], check=True)  # noqa: S603 # pip of this environment
    machine = platform.machine()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pinned:
        pinned.write(constraints())
        pinned.flush()
        subprocess.run(  # noqa: S603 # pip of this environment
            [
                *pip,
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
                f"podbay[{EXTRAS}]",
            ],
            check=True,
        )


if __name__ == "__main__":
    collect(Path(sys.argv[1]))
