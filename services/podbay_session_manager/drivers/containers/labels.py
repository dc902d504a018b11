"""How an installation knows what is its own on an engine: names and labels. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["COPY", "GENERATION", "HELPER", "REPLICA", "SCRATCH", "SESSION", "Ownership"]

_PREFIX: Final = "dev.podbay."

REPLICA: Final = f"{_PREFIX}replica"
"""The label with a replica's id, on its container and its scratch volumes."""
SESSION: Final = f"{_PREFIX}session"
"""The label with a session's id, on networks and containers."""
HELPER: Final = f"{_PREFIX}helper"
"""The label with a helper's purpose."""
GENERATION: Final = f"{_PREFIX}generation"
"""The label that tells which start of the session manager made it."""
COPY: Final = f"{_PREFIX}copy"
"""The label with the id of the resource whose files a volume holds."""
SCRATCH: Final = f"{_PREFIX}scratch"
"""The label with the name of a scratch mount, on its volume."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whose something is.

    Args:
        installation: The installation's id.
        generation: Which start of the session manager made it.
    """

    installation: str
    generation: str

    @property
    def mine(self) -> dict[str, str]:
        """The labels by which everything of the installation is found."""
        return {f"{_PREFIX}installation": self.installation}

    def labels(self, **more: str) -> dict[str, str]:
        """Return the labels of a new thing; names of `more` are parts as "session"."""
        return {
            **self.mine,
            GENERATION: self.generation,
            **{f"{_PREFIX}{name}": value for name, value in more.items()},
        }

    def name(self, *parts: str) -> str:
        """Return the name of a thing, which keeps two of it from being made."""
        return "-".join(["podbay", self.installation[:16], *parts])
