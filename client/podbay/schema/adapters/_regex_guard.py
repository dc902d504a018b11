"""One process that applies regular expressions under a time limit."""

import atexit
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from podbay.schema.adapters import _regex_worker
from podbay.schema.adapters._errors import (
    AdapterRunError,
    ItemDepthError,
    ItemIndexError,
    ItemOverflowError,
    ItemPatternError,
    ItemTypeError,
    ItemValueError,
    PatternGuardError,
    PatternTimeoutError,
)

_FAILURES: dict[str, type[AdapterRunError]] = {
    "IndexError": ItemIndexError,
    "OverflowError": ItemOverflowError,
    "PatternError": ItemPatternError,
    "RecursionError": ItemDepthError,
    "TypeError": ItemTypeError,
    "ValueError": ItemValueError,
    "error": ItemPatternError,
}


class _Guard:
    """Keeps the process, starts it when it is needed first, and again after it was ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: str, seconds: float) -> str:
        """Sends a line, and returns the answer.

        Raises:
            PatternTimeoutError: There was no answer in time; the process has been ended.
            PatternGuardError: There can be no process here.
        """
        with self._lock:
            process = self._process
            if process is None or process.poll() is not None:
                process = self._process = _start()
            answer, stopped = _exchange_in(process, request, seconds)
            if stopped or not answer:
                self._end()
            if answer:
                return answer
            if stopped:
                message = f"the regular expression took longer than {seconds:g} s and was stopped"
                raise PatternTimeoutError(message)
            raise PatternGuardError("the process that limits regular expressions has ended")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            _close_pipes(process)

    def abandon(self) -> None:
        """Forgets the process without ending it, because it is another process's child."""
        if self._process is not None:
            self._process.returncode = 0  # so that nobody waits for it here
            _close_pipes(self._process)

    def close(self) -> None:
        """Ends the process, if there is one."""
        with self._lock:
            self._end()


def _close_pipes(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # what was not sent is of no use now
                stream.close()


def _start() -> subprocess.Popen[str]:
    try:
        process = subprocess.Popen(  # noqa: S603 - our own file, run by the same Python
            [sys.executable, "-I", "-S", str(Path(_regex_worker.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
            start_new_session=True,  # a Ctrl-C is the caller's to handle
        )
    except OSError:
        process = None
    if process is None or not process.stdout or not process.stdout.readline():
        if process is not None:
            process.kill()
            process.communicate()
        message = "the regular expression needs a time limit, and no process can be started for it"
        raise PatternGuardError(message)
    return process


def _exchange_in(process: subprocess.Popen[str], request: str, seconds: float) -> tuple[str, bool]:
    """Returns the answer, empty if there is none, and whether the process was stopped."""
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        process.kill()

    late = threading.Timer(seconds, stop)
    late.start()
    try:
        answer = _exchange(process, request)
    finally:
        late.cancel()
        late.join()
    return answer, stopped.is_set()


def _exchange(process: subprocess.Popen[str], request: str) -> str:
    if process.stdin is None or process.stdout is None:
        return ""
    try:
        process.stdin.write(request + "\n")
        process.stdin.flush()
        return process.stdout.readline()
    except OSError:  # it was ended while we wrote
        return ""


_guard = _Guard()


def _forget() -> None:
    """Leaves the process to the parent: a forked child must not talk to it."""
    global _guard  # noqa: PLW0603 - there is one per process, by definition
    _guard.abandon()
    _guard = _Guard()


def _close() -> None:
    _guard.close()


atexit.register(_close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def apply_guarded(
    operation: str, pattern: re.Pattern[str], text: str, arguments: list[Any], seconds: float
) -> Any:
    """Does the same as `_regex_worker.apply`, in at most so many seconds.

    Raises:
        PatternTimeoutError: It takes longer.
        PatternGuardError: There can be no process here.
        AdapterRunError: The operation failed as it would have here.
    """
    request = json.dumps([operation, pattern.pattern, pattern.flags, text, arguments])
    answer = json.loads(_guard.ask(request, seconds))
    if "error" in answer:
        failure = _FAILURES.get(answer["error"], AdapterRunError)
        raise failure("the regular expression cannot be applied with these arguments")
    result = answer["result"]
    if operation == "findall" and pattern.groups > 1:
        return [tuple(groups) for groups in result]
    return result
