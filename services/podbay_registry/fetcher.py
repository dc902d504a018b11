"""Fetches the files of models that come from a hub or from Git, a few at a time.

The models in the store say what is to be fetched, so that a registry that was killed goes on where
it was: what an earlier process has left in the folder of a model is used again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from podbay.schema import platform
from podbay.v1 import errors_pb2
from podbay_kit.clock import Clock
from podbay_kit.errors import ServiceError
from podbay_kit.process import SettingsError, read_secret
from podbay_kit.resource_filters import ResourceFilter
from podbay_kit.storage import Connection
from podbay_kit.tasks import TaskSet
from podbay_registry import model_life
from podbay_registry.account_room import FETCHING
from podbay_registry.blob_store import BlobStore
from podbay_registry.fetch_intake import take_in
from podbay_registry.fetch_plan import FetchFailure, FetchJob, job_of, plan_fetches
from podbay_registry.fetch_process import FetchedFile, run_fetch
from podbay_registry.kinds import MODELS
from podbay_registry.model_logs import ModelLogs
from podbay_registry.store import RegistryStore

__all__ = ["FetchOptions", "Fetcher"]

_LOG = logging.getLogger(__name__)

_FULL: Final = frozenset(
    {errors_pb2.ERROR_REASON_STORAGE_FULL, errors_pb2.ERROR_REASON_ACCOUNT_STORAGE_FULL}
)
_LOOK_SECONDS: Final = 10.0
_WATCH_SECONDS: Final = 2.0
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_BETWEEN_MESSAGES: Final = 5.0


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """How models are fetched.

    Attributes:
        enabled: Whether they are.
        concurrency: How many at once.
        deadline_seconds: How long one may take.
        attempts: How often one is tried where another try may go well.
        hub_endpoint: The address of the Hugging Face Hub; None for the public one.
        hub_token_file: The file of a token for it, readable by its owner only; None for none.
    """

    enabled: bool = True
    concurrency: int = 2
    deadline_seconds: float = 24 * 3600.0
    attempts: int = 4
    hub_endpoint: str | None = None
    hub_token_file: Path | None = None


class Fetcher:
    """Fetches what the models in the store ask for. To be used on one event loop.

    Args:
        store: The registry's database.
        blobs: Where files go.
        logs: The models' logs.
        clock: Where the time comes from.
        options: How it fetches.
    """

    def __init__(
        self,
        store: RegistryStore,
        blobs: BlobStore,
        logs: ModelLogs,
        clock: Clock,
        options: FetchOptions,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._logs = logs
        self._clock = clock
        self._options = options
        self._tasks = TaskSet(clock=clock)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._news = asyncio.Event()

    @property
    def enabled(self) -> bool:
        """Whether models are fetched."""
        return self._options.enabled

    def wake(self) -> None:
        """Say that there may be something to do, or to stop."""
        self._news.set()

    async def run(self) -> None:
        """Look for what is to be done, on every hint and on a timer, without end."""
        while True:
            self._news.clear()
            await self.reconcile_once()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._news.wait()

    async def close(self) -> None:
        """Stop what runs; another registry goes on with it."""
        await self._tasks.close()

    async def reconcile_once(self) -> None:
        """Start and stop what the store asks for."""
        if not self._options.enabled:
            return
        wanted = await self._store.database.read(self._wanted)
        plan = plan_fetches(wanted, self._running.keys(), self._options.concurrency)
        for model_id in plan.stop:
            self._running[model_id].cancel()
        for model in plan.start:
            task = self._tasks.spawn(f"fetch-{model.id}", self._fetch(model))
            self._running[model.id] = task
            task.add_done_callback(partial(self._ended, model.id))

    async def sweep(self) -> None:
        """Remove what was fetched of models that are no longer to be fetched."""
        wanted = {model.id for model in await self._store.database.read(self._wanted)}
        for name in await self._blobs.run(os.listdir, self._blobs.staging):
            if name not in wanted and name not in self._running:
                await self._blobs.drop_staging(name)

    def _ended(self, model_id: str, _task: asyncio.Task[None]) -> None:
        self._running.pop(model_id, None)
        self.wake()

    def _wanted(self, conn: Connection) -> list[platform.Model]:
        statuses = (platform.EntityStatus.created, platform.EntityStatus.admitted)
        models = [
            model
            for status in statuses
            for model in self._store.resources.every(
                conn, MODELS, ResourceFilter(status=str(status))
            )
            if model_life.is_to_fetch(model)
        ]
        return sorted(models, key=lambda model: (model.creationTime, model.id))

    async def _fetch(self, model: platform.Model) -> None:
        """Fetch one model, and write down what came of it."""
        try:
            async with asyncio.timeout(self._options.deadline_seconds):
                await self._try(model)
        except TimeoutError:
            message = (
                f"It took longer than {self._options.deadline_seconds:g} s, which is all that this "
                "registry allows (--fetch-deadline). Create the model again to go on."
            )
            await self._failed(model, message)
        except FetchFailure as failure:
            await self._failed(model, failure.message)
        except ServiceError as error:
            if error.reason not in _FULL:
                # The store is away, or the registry stops: the model waits, and is looked at again.
                _LOG.warning("fetching the model %s was put off: %s", model.id, error)
                await self._clock.sleep(_LOOK_SECONDS)
                return
            await self._failed(model, error.message)
        except Exception:  # noqa: BLE001 # the model must not wait for ever
            _LOG.exception("fetching the model %s failed", model.id)
            await self._failed(
                model, "This is a defect in Podbay; the registry's log has the details."
            )
        finally:
            # What was kept is linked; what was not is of use only to another try after a restart.
            if await self._is_over(model.id):
                await self._blobs.drop_staging(model.id)

    async def _is_over(self, model_id: str) -> bool:
        found = await self._store.database.read(
            lambda conn: self._store.resources.find(conn, MODELS, model_id)
        )
        return found is None or not model_life.is_to_fetch(found)

    async def _failed(self, model: platform.Model, message: str) -> None:
        await self._log(model.id, f"failed: {message}")
        await self._change(model.id, lambda m: model_life.fetch_failed(m, message, self._now()))

    async def _try(self, model: platform.Model) -> None:
        """Fetch with further tries where they may go well.

        Raises:
            FetchFailure: It failed for good.
            ServiceError: There is no room.
        """
        pause = _FIRST_PAUSE
        for attempt in range(1, self._options.attempts + 1):
            try:
                await self._once(model)
            except FetchFailure as failure:
                if not failure.transient or attempt == self._options.attempts:
                    raise
                told = f"try {attempt} of {self._options.attempts}: {failure.message}"
                await self._log(model.id, f"{told} Trying again in {pause:g} s.")
                await self._say(model.id, f"Trying again in {pause:g} s. {told}")
            else:
                return
            await self._clock.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _once(self, model: platform.Model) -> None:
        folder = self._blobs.staging / model.id
        job = job_of(
            model, str(folder), endpoint=self._options.hub_endpoint, token=await self._token()
        )
        await self._log(model.id, f"fetching {job}")
        await self._say(model.id, "Fetching.")
        claim = f"{FETCHING}{model.id}"
        async with self._blobs.claimed(claim, 0):
            files = await self._run(model.id, job, folder, claim)
            kept = await take_in(self._store, self._blobs, model, folder, files, self._now())
        size = sum(digests.size for digests in kept.values())
        await self._log(model.id, f"fetched {len(kept)} files, {size} bytes")

    async def _run(
        self, model_id: str, job: FetchJob, folder: Path, claim: str
    ) -> list[FetchedFile]:
        expected = 0

        async def total(size: int, files: int) -> None:
            nonlocal expected
            expected = size
            await self._blobs.claim(claim, size)
            await self._log(model_id, f"{files} files, {size} bytes")

        async def watch() -> None:
            """Tell how far it is, and stop it where it takes more room than there is."""
            told = 0.0
            while True:
                await self._clock.sleep(_WATCH_SECONDS)
                size = await self._blobs.run(_size_of, folder)
                if size > expected:
                    await self._blobs.claim(claim, size)
                if self._clock.monotonic() - told >= _BETWEEN_MESSAGES:
                    told = self._clock.monotonic()
                    of = f" of {expected}" if expected else ""
                    await self._say(model_id, f"Fetching: {size}{of} bytes.")

        log = partial(self._log, model_id)
        fetching = asyncio.ensure_future(run_fetch(job, log=log, total=total))
        watching = asyncio.ensure_future(watch())
        try:
            await asyncio.wait({fetching, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not fetching.done():
                watching.result()
            return await fetching
        finally:
            for task in (watching, fetching):
                task.cancel()
            await asyncio.gather(watching, fetching, return_exceptions=True)

    async def _say(self, model_id: str, message: str) -> None:
        await self._change(model_id, lambda m: model_life.admitted(m, message, self._now()))

    async def _change(
        self, model_id: str, change: Callable[[platform.Model], platform.Model]
    ) -> None:
        await self._store.feed.write(
            lambda conn: self._store.resources.modify(
                conn, MODELS, model_id, change, now=self._now()
            )
        )

    async def _log(self, model_id: str, text: str) -> None:
        await self._blobs.run(self._logs.write, model_id, text)

    async def _token(self) -> str | None:
        """Return the hub's token; it is read each time, so that it can be changed."""
        if self._options.hub_token_file is None:
            return None
        try:
            return await asyncio.to_thread(read_secret, self._options.hub_token_file)
        except SettingsError as error:
            raise FetchFailure(str(error)) from None

    def _now(self) -> datetime:
        return self._clock.now()


def _size_of(folder: Path) -> int:
    """Return how many bytes the files below a folder have."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it was renamed, or is gone
                size += (Path(parent) / name).lstat().st_size
    return size
