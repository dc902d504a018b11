"""The error of the local platform: what happened, the evidence, the way out."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["LocalError"]


class LocalError(Exception):
    """`podbay up`, or something else on this machine, cannot go on.

    Attributes:
        reason: One word for programs, in the form of the catalogue's reasons.
        message: What happened, for people.
        evidence: Lines that show it, as the last lines of a log.
        way_out: What to do, in one or more lines.
    """

    def __init__(
        self, reason: str, message: str, *, evidence: Sequence[str] = (), way_out: str = ""
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.evidence = tuple(evidence)
        self.way_out = way_out
