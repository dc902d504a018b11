"""Running a script as `python SCRIPT` does, in a process that runs already."""

from __future__ import annotations

import builtins
import io
import os
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from types import ModuleType, TracebackType

__all__ = ["run_script"]


def run_script(script: str, arguments: Sequence[str]) -> None:
    """Run a script as the main module.

    What it raises, SystemExit included, is left to the interpreter, so that the process ends as
    that of `python SCRIPT` would.

    Args:
        script: The path of its file.
        arguments: What follows it on the command line.

    Raises:
        SystemExit: With 2, where the file cannot be read.
    """
    path = os.path.abspath(script)
    try:
        with io.open_code(path) as file:
            source = file.read()
    except OSError as error:
        reason = f"[Errno {error.errno}] {error.strerror}"
        sys.stderr.write(f"podbay.compat: can't open file {path!r}: {reason}\n")
        sys.exit(2)
    sys.argv = [script, *arguments]
    if not sys.flags.safe_path:
        # `python -m` has put the current folder there; a script has its own.
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    main = _main_module(path)
    sys.modules["__main__"] = main
    _hide_own_frames(main)
    exec(compile(source, path, "exec", dont_inherit=True), main.__dict__)  # noqa: S102 # its purpose


def _main_module(path: str) -> ModuleType:
    main = ModuleType("__main__")
    main.__file__ = path
    main.__loader__ = SourceFileLoader("__main__", path)
    main.__dict__.update(__builtins__=builtins, __cached__=None)
    return main


def _hide_own_frames(main: ModuleType) -> None:
    """Let tracebacks begin where the script does."""

    def show(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        shown = traceback
        while shown is not None and shown.tb_frame.f_globals is not main.__dict__:
            shown = shown.tb_next
        if shown is None and not isinstance(error, SyntaxError):
            shown = traceback  # nothing of it is the script's
        sys.__excepthook__(kind, error.with_traceback(shown), shown)

    sys.excepthook = show
