"""The platform's timeouts, of which Podbay needs one number."""

from __future__ import annotations

from typing import Any

__all__ = ["Timeout", "seconds"]

_A_DAY = 86400.0


class Timeout:
    """A timeout in four parts, as `dyff.client` exports it from httpx.

    Args:
        timeout: Seconds for each part that is not given; None for no limit.
        **parts: Seconds of `connect`, `read`, `write` or `pool`.

    Attributes:
        read: How long a call may take, in seconds, or None. The other parts have no counterpart:
            a call's time includes them.
    """

    def __init__(self, timeout: float | None = None, **parts: float | None) -> None:
        unknown = parts.keys() - {"connect", "read", "write", "pool"}
        if unknown:
            raise TypeError(f"Timeout() got an unexpected keyword argument {min(unknown)!r}")
        self.read = parts.get("read", timeout)


def seconds(timeout: Any) -> float:
    """Return a timeout in seconds.

    Args:
        timeout: Seconds, or an object whose `read` counts, as a `Timeout` or one of httpx's; None
            is a day.
    """
    given = getattr(timeout, "read", timeout)
    return _A_DAY if given is None else float(given)
