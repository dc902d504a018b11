"""What runs on one machine: the mocks, and the local platform.

    from podbay.local import LocalPlatform, mocks

Both are imported when they are first used: a replica imports the mocks alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from podbay.local.platform import LocalPlatform

__all__ = ["LocalPlatform"]


def __getattr__(name: str) -> Any:
    if name != "LocalPlatform":
        raise AttributeError(f"module 'podbay.local' has no attribute {name!r}")
    from podbay.local.platform import LocalPlatform  # noqa: PLC0415 # see above

    return LocalPlatform


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
