"""The command line `podbay`.

Nothing heavy is imported before a command needs it, so that `podbay --help` is quick.
"""

from __future__ import annotations

from podbay.cli.root import main

__all__ = ["main"]
