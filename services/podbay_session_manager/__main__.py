"""`python -m podbay_session_manager`."""

from __future__ import annotations

import sys

from podbay_kit.starting import uncollected

__all__ = ["main"]


def main() -> int:
    """Run the service until it is asked to end, and return the exit code."""
    with uncollected():
        from podbay_session_manager.command_line import main as run  # noqa: PLC0415 # see `uncollected`

    return run()


if __name__ == "__main__":
    sys.exit(main())
