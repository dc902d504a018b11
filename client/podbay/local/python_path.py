"""Where a user's own modules are, for other processes of the same interpreter."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path

__all__ = ["absolute_python_path", "importable_elsewhere", "own_python_path"]


def absolute_python_path() -> str:
    """Return PYTHONPATH in a form that means the same in every folder."""
    parts = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(str(Path(part).absolute()) for part in parts if part)


def own_python_path() -> str:
    """Return a PYTHONPATH with what this process imports from and a fresh interpreter does not.

    It holds the folder of the main script, or the current one of an interactive interpreter.
    """
    given = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    base = Path(sysconfig.get_path("stdlib"))
    given |= {str(base / "lib-dynload")}
    version = f"python{sys.version_info.major}{sys.version_info.minor}.zip"
    own = [
        str(path)
        for entry in sys.path
        if (path := Path(entry).absolute()).exists()
        and str(path) not in given
        and path.name != version
    ]
    return os.pathsep.join(dict.fromkeys(own))


def importable_elsewhere(mock_type: type) -> bool:
    """Whether a process with `own_python_path` finds the very same class by its name.

    Not so for classes of the main script or a notebook, which would run again to be imported; for
    those made within a function; and for those of a module that is in no folder of `sys.path`.
    """
    module, name = mock_type.__module__, mock_type.__qualname__
    if module in {"__main__", "__mp_main__"} or "<locals>" in name:
        return False
    found: object = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not mock_type:
        return False
    top = module.partition(".")[0]
    try:
        return PathFinder.find_spec(top) is not None
    except (ImportError, ValueError):
        return False
