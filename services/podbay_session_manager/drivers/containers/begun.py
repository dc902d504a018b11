"""A start that is under way, and that may be given up as long as nothing of it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from podbay_session_manager.drivers.contract import LaunchSpec, StartFailedError, StartFailure
from podbay_session_manager.records import Reason

__all__ = ["BegunStart"]

T = TypeVar("T")


class BegunStart:
    """The start of one replica.

    Args:
        spec: What is started.

    Attributes:
        task: Carries it out.
        left: What it had begun when it was given up, and what goes on; None for nothing.
    """

    def __init__(self, spec: LaunchSpec) -> None:
        self.spec = spec
        self.task: asyncio.Task[StartFailure | None] | None = None
        self.left: asyncio.Task[Any] | None = None
        self._stopped = asyncio.Event()
        self._making = False

    def give_up(self) -> bool:
        """End the start where its container is not being made yet, and return whether that is so.

        Where it is, the start ends once the container is made, unless that runs by then.
        """
        self._stopped.set()
        return not self._making

    def make(self) -> None:
        """Note that the container is made from now on.

        Raises:
            StartFailedError: The start was given up.
        """
        self.check()
        self._making = True

    def check(self) -> None:
        """See whether it was given up.

        Raises:
            StartFailedError: It was.
        """
        if self._stopped.is_set():
            raise StartFailedError(
                Reason.REPLICA_STOPPED, "The replica was stopped before it was started."
            )

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what may take long, and leave it to itself where the start is given up meanwhile.

        Raises:
            StartFailedError: The start was given up; `left` is what goes on.
        """
        doing = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({doing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            doing.cancel()
            raise
        finally:
            stopped.cancel()
        if not doing.done():
            self.left = doing
            self.check()
        return doing.result()
