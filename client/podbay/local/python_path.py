"""Where a user's own modules are, for other processes of the same interpreter."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

from podbay.local.mocks import mock_name

__all__ = ["absolute_python_path", "import_path", "own_python_path"]


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


def import_path(mock_type: type) -> str:
    """Return the path by which a process with `own_python_path` imports a class.

    Args:
        mock_type: The class. One of the main script is imported as the module that the script's
            file is, so what a script does must stand under `if __name__ == "__main__":`.

    Raises:
        ValueError: No other process can import it.
    """
    main = sys.modules["__main__"]
    if mock_type.__module__ != "__main__" or getattr(main, "__spec__", None) is not None:
        # The second: started as `python -m package.module`, whose name `mock_name` knows.
        return mock_name(mock_type)
    _, _, name = mock_name(mock_type, allow_main=True).partition(".")
    return f"{_module_of_script(main, mock_type)}.{name}"


def _module_of_script(main: ModuleType, mock_type: type) -> str:
    file = getattr(main, "__file__", None)
    if file is None:
        raise ValueError(
            f"{mock_type.__qualname__} is defined in a notebook or an interactive session, and a "
            "replica is a process of its own: write it into a module (in a notebook with "
            "%%writefile my_mocks.py) and import it from there"
        )
    script = Path(file).absolute()
    if script.suffix != ".py" or not script.stem.isidentifier():
        raise ValueError(
            f"{mock_type.__qualname__} is defined in {script.name}, which no replica can import "
            "under that name: move the class into a module beside it"
        )
    return script.stem
