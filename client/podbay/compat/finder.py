"""Serving the platform's packages out of Podbay's, before any that are installed."""

from __future__ import annotations

import dis
import importlib
import inspect
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import FrameType, ModuleType
from typing import Any

from podbay.compat.parts import PARTS, Part, missing_name, missing_part

__all__ = ["DyffFinder", "install"]


class DyffFinder(MetaPathFinder, Loader):
    """Finds and loads `dyff` and everything below it."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 # the protocol's
        target: ModuleType | None = None,  # noqa: ARG002 # the protocol's
    ) -> ModuleSpec | None:
        """Return how to load a module; None for one that is not the platform's.

        Raises:
            ModuleNotFoundError: It is the platform's, and Podbay has none like it.
        """
        if fullname.partition(".")[0] != "dyff":
            return None
        part = PARTS.get(fullname)
        if part is None:
            raise ModuleNotFoundError(missing_part(fullname), name=fullname)
        return spec_from_loader(fullname, self, origin="podbay.compat", is_package=part.package)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return an empty module."""
        return _DyffModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Fill a module. What needs more than the schema comes when it is asked for."""
        part = PARTS[module.__name__]
        public: dict[str, Any] = {}
        if part.source is not None:
            source = importlib.import_module(part.source)
            public = {name: getattr(source, name) for name in source.__all__}
            module.__doc__ = source.__doc__
        module.__dict__.update(public)
        module.__dict__["__all__"] = sorted({*public, *part.names})


class _DyffModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        part: Part = PARTS[self.__name__]
        if name in part.names:
            home, _, original = part.names[name].partition(":")
            value = getattr(importlib.import_module(home), original)
            self.__dict__[name] = value
            return value
        if f"{self.__name__}.{name}" in PARTS:
            return importlib.import_module(f"{self.__name__}.{name}")
        text = missing_name(self.__name__, name)
        if not name.startswith("__") and _is_from_import(inspect.currentframe()):
            # Of an AttributeError, Python would make one that does not say why.
            raise ImportError(text, name=self.__name__)
        raise AttributeError(text, name=name, obj=self)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self.__dict__["__all__"]})


def _is_from_import(frame: FrameType | None) -> bool:
    """Whether the code that made the frame is at a `from ... import`."""
    caller = frame.f_back if frame is not None else None
    if caller is None:
        return False
    return dis.opname[caller.f_code.co_code[caller.f_lasti]] == "IMPORT_FROM"


def install() -> None:
    """Make `import dyff` import from Podbay, in this process. May be called more than once."""
    if any(isinstance(finder, DyffFinder) for finder in sys.meta_path):
        return
    # An installed package may have been imported at the start of the interpreter.
    for name in [name for name in sys.modules if name.partition(".")[0] == "dyff"]:
        del sys.modules[name]
    sys.meta_path.insert(0, DyffFinder())
