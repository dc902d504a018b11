"""From an import path to a mock: every way to fail has its own text."""

import difflib
import importlib
import importlib.util
import inspect
import traceback
from types import ModuleType

from podbay_kit.replica_server.errors import MockFailedError, MockNotImportableError

__all__ = ["build_mock", "import_mock", "load_mock"]


def load_mock(path: str) -> object:
    """Import the class at `path` and build it.

    Args:
        path: `package.module.Class`, `package.module.Outer.Inner` or `package.module:Class`.

    Raises:
        MockNotImportableError: If there is no such class, or it is not a mock.
        MockFailedError: If its constructor fails.
    """
    return build_mock(import_mock(path))


def build_mock(mock_type: type) -> object:
    """Build a mock of this class.

    Raises:
        MockFailedError: If the constructor fails.
    """
    try:
        return mock_type()
    except (Exception, SystemExit) as error:
        name = f"{mock_type.__module__}.{mock_type.__qualname__}"
        raise MockFailedError(f"building {name} failed: {_summary(error)}") from error


def import_mock(path: str) -> type:
    """Import the class at `path`, without building it.

    Args:
        path: As for `load_mock`.

    Raises:
        MockNotImportableError: If there is no such class, or it is not a mock.
    """
    module_name, names = _split(path)
    found: object = _import_module(module_name)
    for name in names:
        if not hasattr(found, name):
            raise MockNotImportableError(_no_such_name(found, name))
        found = getattr(found, name)
    if not isinstance(found, type):
        raise MockNotImportableError(
            f"{path!r} is an object of type {type(found).__name__}, not a class; "
            "name the mock's class"
        )
    if not callable(getattr(found, "infer", None)):
        raise MockNotImportableError(
            f"{path!r} is not a mock: it has no method infer(endpoint, request)"
        )
    return found


def _split(path: str) -> tuple[str, list[str]]:
    """Tell the module from the names inside it."""
    module_name, colon, qualified_name = path.partition(":")
    parts = [*module_name.split("."), *qualified_name.split(".")] if colon else path.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise MockNotImportableError(
            f"{path!r} is not an import path; write package.module.Class or package.module:Class"
        )
    if colon:
        return module_name, qualified_name.split(".")
    # The longest prefix that is a module. Asking for a module's spec imports its parents, so
    # a parent that fails to import is reported as itself, and not as a name that is missing.
    length = 1
    while length < len(parts) and _module_exists(".".join(parts[:length])):
        length += 1
    if not _module_exists(".".join(parts[:length])):
        length -= 1
    if length == 0:
        raise MockNotImportableError(_no_such_module(parts[0]))
    if length == len(parts):
        raise MockNotImportableError(f"{path!r} is a module, not a class; add the class's name")
    return ".".join(parts[:length]), parts[length:]


def _module_exists(name: str) -> bool:
    parent, _, _ = name.rpartition(".")
    if parent and not hasattr(_import_module(parent), "__path__"):
        return False  # a plain module holds no modules
    if name == "__main__":
        return True  # its spec is None when it is a script
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # ValueError: in sys.modules without a spec
        return False


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise MockNotImportableError(_no_such_module(error.name)) from error
        raise MockNotImportableError(f"importing {name!r} failed: {_summary(error)}") from error
    except (Exception, SystemExit) as error:
        raise MockNotImportableError(f"importing {name!r} failed: {_summary(error)}") from error


def _no_such_module(name: str) -> str:
    return (
        f"there is no module {name!r} for this Python; install it into the environment that runs "
        "the replica, or put its folder on PYTHONPATH"
    )


def _no_such_name(holder: object, name: str) -> str:
    kind = "module" if isinstance(holder, ModuleType) else "class"
    holder_name = getattr(holder, "__name__", type(holder).__name__)
    classes = [key for key, value in vars(holder).items() if inspect.isclass(value)]
    close = difflib.get_close_matches(name, classes, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"the {kind} {holder_name!r} has no {name!r}{hint}"


def _summary(error: BaseException) -> str:
    """The type, the text and the place of an error, in one line."""
    text = " ".join(str(error).split())
    summary = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    written = [frame for frame in frames if not frame.filename.startswith("<frozen")]
    if not written or written[-1].filename == __file__:
        return summary
    return f"{summary} ({written[-1].filename}:{written[-1].lineno})"
