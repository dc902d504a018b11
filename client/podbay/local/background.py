"""A local installation in a thread, for programs that go on meanwhile."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from podbay.local.installation import Installation, Leftover
from podbay.local.plan import UpSettings
from podbay.local.supervisor import Event

__all__ = ["BackgroundInstallation"]


class BackgroundInstallation:
    """The services on one data folder, supervised by a thread of this program.

    Args:
        data_dir: The folder.
        settings: The options.
        on_event: Told what happens, on the supervising thread.
    """

    def __init__(
        self, data_dir: Path, settings: UpSettings, *, on_event: Callable[[Event], None]
    ) -> None:
        self._arguments = (data_dir, settings, on_event)
        self._ready: concurrent.futures.Future[Installation] = concurrent.futures.Future()
        self._ended: concurrent.futures.Future[Leftover] = concurrent.futures.Future()
        # The loop, and the event that makes it end.
        self._wish: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
        self._wish = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, name="podbay-up", daemon=True)

    def start(self) -> Installation:
        """Start the services, and return when all are healthy.

        Raises:
            LocalError: They could not be started. Call `stop` also then.
        """
        self._thread.start()
        return self._ready.result()

    def stop(self) -> Leftover:
        """Stop the services in order, and verify that no process is left.

        Returns:
            What was left, and had to be killed.
        """
        if self._thread.ident is None:
            return Leftover()
        loop, stop = self._wish.result()
        if not self._ended.done():
            with contextlib.suppress(RuntimeError):  # the loop ended by itself just now
                loop.call_soon_threadsafe(stop.set)
        self._thread.join()
        return self._ended.result()

    def _run(self) -> None:
        try:
            self._ended.set_result(asyncio.run(self._main()))
        except BaseException as error:  # noqa: BLE001 # handed to whoever waits in another thread
            for future in (self._wish, self._ready):
                if not future.done():
                    future.set_exception(error)
            self._ended.set_exception(error)

    async def _main(self) -> Leftover:
        stop = asyncio.Event()
        self._wish.set_result((asyncio.get_running_loop(), stop))
        data_dir, settings, on_event = self._arguments
        installation = Installation(data_dir, settings, on_event=on_event)
        starting = asyncio.create_task(installation.start())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        try:
            if starting.done():
                await starting
                self._ready.set_result(installation)
        except Exception as error:  # noqa: BLE001 # handed to whoever waits in another thread
            self._ready.set_exception(error)
        await stopped
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return await installation.stop()
