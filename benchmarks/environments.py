"""Environments of peers: each has its own under .venvs, and Podbay imports nothing of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["EnvironmentUnavailableError", "environment", "pins_of"]

_ROOT = Path(__file__).resolve().parent.parent
_VENVS = _ROOT / ".venvs"
_MAKING_SECONDS = 1200


class EnvironmentUnavailableError(Exception):
    """An environment is not there and cannot be made, e.g. without a network. The text says why."""


def environment(name: str, pins: Sequence[str]) -> Path:
    """Return the interpreter of an environment, which is made at first use.

    One that was made from other pins, or by another Python, is made anew.

    Args:
        name: Its folder under .venvs.
        pins: What pip installs, as "package==1.2".

    Raises:
        EnvironmentUnavailableError: It cannot be made.
    """
    home = _VENVS / name
    python, stamp = home / "bin" / "python", home / ".made-from"
    made_from = "\n".join([sys.version, *pins])
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != made_from:
        print(f"making .venvs/{name}: {' '.join(pins)}", flush=True)
        shutil.rmtree(home, ignore_errors=True)
        _run(home, [sys.executable, "-m", "venv", str(home)])
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run(home, [*pip, "--retries=1", *pins])
        stamp.write_text(made_from, encoding="utf-8")
    return python


def pins_of(file: str) -> list[str]:
    """Return the pins of a file under requirements/."""
    lines = (_ROOT / "requirements" / file).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _run(home: Path, command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_MAKING_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        why = f"it took longer than {_MAKING_SECONDS} s"
    else:
        if done.returncode == 0:
            return
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        why = words[-1] if words else f"exit status {done.returncode}"
    raise EnvironmentUnavailableError(f"{home.relative_to(_ROOT)} cannot be made: {why}")
