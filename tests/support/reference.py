"""The reference packages, in an environment of their own and in a process of their own."""

import fcntl
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_ROOT = Path(__file__).parents[2]
_MAKING_SECONDS = 600
_CHILD = Path(__file__).with_name("reference_child.py")


class ReferenceUnavailableError(Exception):
    """The environment is not there and cannot be made, e.g. without a network."""


@cache
def reference_python(name: str = "reference") -> Path:
    """The interpreter that has reference packages; its environment is made at first use.

    The environment `.venvs/NAME` is made from `requirements/NAME.txt`. Processes that want it at
    the same time wait for the first one. One that was made from other pins, or by another Python,
    is made anew.

    Raises:
        ReferenceUnavailableError: It cannot be made.
    """
    pins = _ROOT / "requirements" / f"{name}.txt"
    home = _ROOT / ".venvs" / name
    python = home / "bin" / "python"
    made_from = f"{sys.version}\n{pins.read_text(encoding='utf-8')}"
    stamp = home / ".made-from"
    home.parent.mkdir(exist_ok=True)
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != made_from:
            _run(name, sys.executable, "-m", "venv", "--clear", str(home))
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _run(name, *pip, "--retries=1", "-r", str(pins))
            stamp.write_text(made_from, encoding="utf-8")
    return python


def _run(name: str, *command: str) -> None:
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
    raise ReferenceUnavailableError(
        f".venvs/{name} cannot be made from requirements/{name}.txt: {why}"
    )


class Reference:
    """A process with the reference packages, asked through pipes; a context manager."""

    def __init__(self) -> None:
        """Start the process.

        Raises:
            ReferenceUnavailableError: There is no environment for it.
        """
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            # -P: the script's folder holds modules that would hide the standard library's.
            [str(reference_python()), "-P", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def has(self, names: list[str]) -> list[str]:
        """Which of the models are there."""
        found: list[str] = self._ask("has", names=names)
        return found

    def read(self, model: str, texts: list[str]) -> list[dict[str, Any]]:
        """For each JSON text `written`, its normal form, or `errors`, pairs of place and type."""
        found: list[dict[str, Any]] = self._ask("read", model=model, texts=texts)
        return found

    def adapt(self, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The outcomes of cases (`specs`, `items`, `validated`), as `outcome` describes them."""
        found: list[dict[str, Any]] = self._ask("adapt", cases=cases)
        return found

    def measure(self, specs: list[Any], item: Any, count: int, *, calls: bool) -> float:
        """The seconds that a pipeline takes, as `seconds` measures them."""
        found: float = self._ask("measure", specs=specs, item=item, count=count, calls=calls)
        return found

    def _ask(self, ask: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"ask": ask, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with {self._process.wait()}; see its errors")
        return json.loads(line)
