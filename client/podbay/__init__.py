"""Podbay: run packaged AI systems as sessions, and call them.

    from podbay import Client

    with Client() as client:
        service = client.inferenceservices.get("service-id")
        ...

Everything is imported when it is first used, so that `import podbay` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from podbay import errors
    from podbay._async.client import AsyncClient
    from podbay._async.inference import AsyncInferenceSessionClient
    from podbay._sync.client import Client
    from podbay._sync.inference import InferenceSessionClient
    from podbay.errors import PodbayError
    from podbay.types import InferResult, SessionStatus

__all__ = [
    "AsyncClient",
    "AsyncInferenceSessionClient",
    "Client",
    "InferResult",
    "InferenceSessionClient",
    "PodbayError",
    "SessionStatus",
    "__version__",
    "errors",
]

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "podbay._async.client",
    "AsyncInferenceSessionClient": "podbay._async.inference",
    "Client": "podbay._sync.client",
    "InferResult": "podbay.types",
    "InferenceSessionClient": "podbay._sync.inference",
    "PodbayError": "podbay.errors",
    "SessionStatus": "podbay.types",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("podbay.errors")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'podbay' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
