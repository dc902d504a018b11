"""One process that applies regular expressions under a time limit.

Whoever asks waits, an event loop as well, and those who ask meanwhile wait for their turn.
"""

import atexit
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from podbay.schema.adapters import _regex_worker
from podbay.schema.adapters._errors import (
    AdapterRunError,
    ItemDepthError,
    ItemIndexError,
    ItemMemoryError,
    ItemOverflowError,
    ItemPatternError,
    ItemTypeError,
    ItemValueError,
    PatternGuardError,
    PatternTimeoutError,
)

# The most bytes that are read at once.
_CHUNK = 1 << 20

_FAILURES: dict[str, type[AdapterRunError]] = {
    "IndexError": ItemIndexError,
    "MemoryError": ItemMemoryError,
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
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: str, seconds: float) -> bytes:
        """Sends a line, and returns the answer.

        Raises:
            PatternTimeoutError: There was no answer in time; the process has been ended.
            PatternGuardError: There can be no process here.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._end()
                self._process = _start()
            answer = b""
            try:
                answer = _exchange(self._process, request.encode("ascii") + b"\n", seconds)
            except TimeoutError:
                message = f"the regular expression took longer than {seconds:g} s and was stopped"
                raise PatternTimeoutError(message) from None
            finally:
                if not answer:  # whatever the reason is, it cannot be asked again
                    self._end()
        if not answer:
            raise PatternGuardError("the process that limits regular expressions has ended")
        return answer

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


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _start() -> subprocess.Popen[bytes]:
    try:
        process = subprocess.Popen(  # noqa: S603 - our own file, run by the same Python
            [sys.executable, "-I", "-S", str(Path(_regex_worker.__file__))],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is the caller's to handle
        )
    except OSError:
        process = None
    if process is None or not process.stdin or not process.stdout or not process.stdout.readline():
        if process is not None:
            process.kill()
            process.communicate()
        message = "the regular expression needs a time limit, and no process can be started for it"
        raise PatternGuardError(message)
    os.set_blocking(process.stdin.fileno(), False)
    return process


def _exchange(process: subprocess.Popen[bytes], request: bytes, seconds: float) -> bytes:
    """Returns the answer; it is empty if the process ends.

    Raises:
        TimeoutError: The answer is not there in time.
    """
    if process.stdin is None or process.stdout is None:
        return b""
    source, sink = process.stdout.fileno(), process.stdin.fileno()
    wanted = select.poll()
    wanted.register(source, select.POLLIN)
    wanted.register(sink, select.POLLOUT)
    deadline = time.monotonic() + seconds
    unsent = memoryview(request)
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"\n"):
        left = deadline - time.monotonic()
        ready = wanted.poll(left * 1000) if left > 0 else []
        if not ready:
            raise TimeoutError
        if source in dict(ready):
            parts.append(os.read(source, _CHUNK))
            if not parts[-1]:
                return b""
        elif unsent:
            try:
                unsent = unsent[os.write(sink, unsent) :]
            except OSError:  # it was ended while we wrote
                return b""
            if not unsent:
                wanted.unregister(sink)
    return b"".join(parts)


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
