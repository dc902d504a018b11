"""The files of models on a node: fetched once, verified, laid out, kept while they are used.

A model is a read-only folder whose files are links to contents that are kept by their SHA-256, so
that models that share files share their room. It appears whole, and stays until the room is needed
and nothing holds it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from podbay.v1 import errors_pb2
from podbay_kit.blob_files import ClosingError, Hasher
from podbay_kit.clock import Clock, SystemClock
from podbay_kit.errors import ServiceError
from podbay_kit.model_cache_folder import CacheFolder
from podbay_kit.model_cache_plan import plan_eviction
from podbay_kit.model_layout import LaidFile, Layout, plan_layout
from podbay_kit.model_source import ModelFilesSource, SourceAwayError

__all__ = ["CacheProgress", "ModelCache"]

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_THREADS: Final = 4
_FILES_AT_ONCE: Final = 4
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 10.0
_PATIENCE_SECONDS: Final = 300.0
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class CacheProgress:
    """How far the transfer of a model is.

    Attributes:
        done: How many bytes are there.
        total: How many there will be.
    """

    done: int
    total: int


Progress = Callable[[CacheProgress], object]


class _Transfer:
    """A model that comes, and who waits for it."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Path] | None = None
        self.waiting = 0
        self.abandoned = False
        """Whether it ends because nobody waits for it; who comes then begins another."""
        self.listeners: list[Progress] = []
        self.coming = 0
        """The bytes that are still to come."""
        self.wanted: frozenset[str] = frozenset()
        self.last = CacheProgress(0, 0)

    def tell(self, done: int, total: int) -> None:
        self.last = CacheProgress(done, total)
        for listener in list(self.listeners):
            listener(self.last)


class ModelCache:
    """Keeps the files of models on this machine. To be used on one event loop, by one process.

    Args:
        root: The folder.
        source: Where files come from.
        quota: The most bytes that it may have; None for what the disk holds.
        clock: Where the time comes from.
    """

    def __init__(
        self,
        root: Path,
        source: ModelFilesSource,
        *,
        quota: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock: Clock = clock or SystemClock()
        self._disk = CacheFolder(root, self._clock)
        self._source = source
        self._quota = quota
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="podbay-model-cache")
        self._transfers: dict[str, _Transfer] = {}
        self._holders: dict[str, set[str]] = {}
        # Contents that come now, each once, whichever models want them.
        self._incoming: dict[str, asyncio.Lock] = {}
        self._room = asyncio.Lock()

    async def start(self) -> None:
        """Make the folders, and remove what a crash has left half made."""
        await self._run(self._disk.prepare)

    async def close(self) -> None:
        """Give up what comes; what came is kept for another time."""
        self._disk.blobs.verifier.closing.set()
        tasks = [t.task for t in self._transfers.values() if t.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)

    def hold(self, model_id: str, holder: str) -> None:
        """Keep a model for somebody, as a replica: it is not removed until it is released.

        Holders live in memory: who adopts replicas after a restart holds their models again.
        """
        self._holders.setdefault(model_id, set()).add(holder)

    def release(self, model_id: str, holder: str) -> None:
        """Keep a model for somebody no more."""
        holders = self._holders.get(model_id, set())
        holders.discard(holder)
        if not holders:
            self._holders.pop(model_id, None)

    async def ensure(
        self, model_id: str, *, holder: str | None = None, progress: Progress | None = None
    ) -> Path:
        """Return the folder of a model, once all its files are there and verified.

        Those who ask at the same time share one transfer, which ends with the last of them. One
        that broke off goes on at its byte.

        Args:
            model_id: The model.
            holder: Who holds it from now on; see `hold`. Released again where this fails.
            progress: Told how far the transfer is.

        Raises:
            ServiceError: There is no such model, it is not ready, a file of it is damaged
                (MODEL_FILE_DAMAGED), there is no room (STORAGE_FULL), or the registry is away for
                too long (DEPENDENCY_UNAVAILABLE).
        """
        fresh = holder is not None and holder not in self._holders.get(model_id, set())
        if holder is not None:
            self.hold(model_id, holder)
        try:
            return await self._shared(model_id, progress)
        except BaseException:
            if holder is not None and fresh:
                self.release(model_id, holder)
            raise

    async def _shared(self, model_id: str, progress: Progress | None) -> Path:
        while (transfer := self._transfers.get(model_id)) is not None and transfer.abandoned:
            assert transfer.task is not None  # noqa: S101 # it is set where it is made
            await asyncio.wait({transfer.task})
        if transfer is None:
            transfer = self._transfers[model_id] = _Transfer()
            transfer.task = asyncio.create_task(
                self._bring(model_id, transfer), name=f"model-{model_id}"
            )
        assert transfer.task is not None  # noqa: S101 # it is set where it is made
        if progress is not None:
            transfer.listeners.append(progress)
            if transfer.last.total:
                progress(transfer.last)
        transfer.waiting += 1
        try:
            return await asyncio.shield(transfer.task)
        finally:
            transfer.waiting -= 1
            if progress is not None:
                transfer.listeners.remove(progress)
            if not transfer.waiting and not transfer.task.done():
                transfer.abandoned = True
                transfer.task.cancel()
                await asyncio.gather(transfer.task, return_exceptions=True)

    async def _bring(self, model_id: str, transfer: _Transfer) -> Path:
        try:
            folder = self._disk.model(model_id)
            layout = await self._run(self._disk.sound_layout, model_id)
            if layout is None:
                # A replica that has the folder mounted keeps it, as it is.
                in_use = model_id in self._holders
                await self._run(self._disk.set_aside, model_id, in_use)
                layout = await self._plan(model_id)
                await self._fetch_all(model_id, layout, transfer)
                await self._run(self._disk.lay_out, model_id, layout)
            await self._run(self._disk.used, model_id)
            return folder
        finally:
            del self._transfers[model_id]

    async def _plan(self, model_id: str) -> Layout:
        files = await self._patiently(lambda: self._source.list_files(model_id))
        try:
            return plan_layout(files)
        except ValueError as error:
            raise ServiceError(
                errors_pb2.ERROR_REASON_MODEL_NOT_READY,
                f"The files of the model cannot be laid out: {error}.",
                metadata={"model": model_id},
            ) from None

    async def _fetch_all(self, model_id: str, layout: Layout, transfer: _Transfer) -> None:
        content = layout.content
        transfer.wanted = frozenset(content)
        async with self._room:
            missing = await self._run(self._disk.missing, layout)
            transfer.coming = sum(content[sha256] for sha256 in missing)
            await self._make_room(model_id, transfer.coming)
        total = sum(content.values())
        arrived = dict.fromkeys(missing, 0)

        def came(sha256: str, size: int) -> None:
            before = arrived[sha256]
            arrived[sha256] = size
            transfer.coming -= size - before
            transfer.tell(total - sum(content[each] - arrived[each] for each in missing), total)

        if missing:
            transfer.tell(total - transfer.coming, total)
        slots = asyncio.Semaphore(_FILES_AT_ONCE)
        first = {file.sha256: file for file in reversed(layout.files)}
        async with _first_failure() as group:
            for sha256 in missing:
                group.create_task(self._fetch(model_id, first[sha256], slots, came))

    async def _fetch(
        self,
        model_id: str,
        file: LaidFile,
        slots: asyncio.Semaphore,
        came: Callable[[str, int], None],
    ) -> None:
        lock = self._incoming.setdefault(file.sha256, asyncio.Lock())
        async with slots, lock:
            if await self._run(self._disk.is_sound, file.sha256):
                # Another model has brought it meanwhile.
                came(file.sha256, file.size)
                return
            arrived = 0

            def noted(sha256: str, size: int) -> None:
                nonlocal arrived
                arrived = max(arrived, size)
                came(sha256, size)

            await self._patiently(lambda: self._fetch_once(model_id, file, noted), lambda: arrived)

    async def _fetch_once(
        self, model_id: str, file: LaidFile, came: Callable[[str, int], None]
    ) -> None:
        part = self._disk.blobs.part(file.sha256)
        opened = await self._run(part.open, "a+b")
        try:
            hasher = await self._run(self._disk.begun, opened, file.size)
            came(file.sha256, hasher.size)
            if hasher.size < file.size:
                pieces = self._source.read(model_id, file.path, hasher.size)
                async with aclosing(pieces):  # type: ignore[type-var] # sources are generators
                    async for data in pieces:
                        await self._run(_append, opened, hasher, data)
                        came(file.sha256, hasher.size)
        finally:
            await self._run(opened.close)
        if hasher.size < file.size:
            raise SourceAwayError("the file ended before its last byte")
        found = hasher.digests().sha256
        if found != file.sha256:
            await self._run(part.unlink)
            raise _SpoiledError(model_id, file, found)
        await self._run(self._disk.keep, part, file.sha256)

    async def _patiently(
        self, attempt: Callable[[], Any], arrived: Callable[[], int] = lambda: 0
    ) -> Any:
        """Try until it goes well, for a while after the last time that something came."""
        deadline = self._clock.monotonic() + _PATIENCE_SECONDS
        pause, spoiled, before = _FIRST_PAUSE, 0, 0
        while True:
            try:
                return await attempt()
            except SourceAwayError as error:
                if arrived() > before:
                    before, pause = arrived(), _FIRST_PAUSE
                    deadline = self._clock.monotonic() + _PATIENCE_SECONDS
                if self._clock.monotonic() + pause > deadline:
                    raise _away(error) from error
            except _SpoiledError as error:
                # A crash may have spoiled the part that was there before; not twice.
                spoiled += 1
                if spoiled > 1:
                    raise error.told() from None
            await self._clock.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _make_room(self, model_id: str, size: int) -> None:
        """Remove what nobody uses where the room is needed, with the lock of the room held.

        Raises:
            ServiceError: STORAGE_FULL.
        """
        others = {k: t for k, t in self._transfers.items() if k != model_id}
        mine = self._transfers[model_id]
        kept = {*self._holders, *self._transfers}
        wanted = mine.wanted.union(*(t.wanted for t in others.values()))
        models, there = await self._run(self._disk.inventory)
        plan = plan_eviction(
            models,
            there,
            kept=kept,
            wanted=wanted,
            coming=size + sum(t.coming for t in others.values()),
            quota=self._quota,
        )
        if plan.short:
            used = sum(there.values())
            raise ServiceError(
                errors_pb2.ERROR_REASON_STORAGE_FULL,
                f"The node's cache of models has no room for {size} bytes: {used} of "
                f"{self._quota} bytes are used, and what could be removed is not enough. "
                f"{len(kept & {m.id for m in models})} models are in use. End sessions, or give "
                "the cache more room.",
                metadata={"needed": str(size), "used": str(used), "quota": str(self._quota)},
            )
        if self._quota is not None:
            await self._run(self._disk.drop_parts, wanted)
        if plan.models or plan.contents:
            _LOG.info("%d models leave the cache of models", len(plan.models))
            await self._run(self._disk.evict, plan.models, plan.contents)

    async def _run(self, function: Callable[..., T], *args: Any) -> T:
        """Run what blocks in a thread; it runs to its end where the caller goes away.

        Raises:
            ServiceError: STORAGE_FULL, where the disk is full; SERVICE_STOPPING at the end.
        """
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, lambda: function(*args))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            if not future.cancelled() and future.exception() is None:
                result: Any = future.result()
                if hasattr(result, "close"):
                    result.close()
            raise
        except OSError as error:
            if error.errno in _FULL:
                raise ServiceError(
                    errors_pb2.ERROR_REASON_STORAGE_FULL,
                    "The disk of the node's cache of models is full. Make room there.",
                    metadata={"disk": "full"},
                ) from error
            raise
        except ClosingError:
            raise ServiceError(
                errors_pb2.ERROR_REASON_SERVICE_STOPPING,
                "The service is about to stop. What came of the model is kept.",
                retry_after=1.0,
            ) from None


class _SpoiledError(Exception):
    def __init__(self, model_id: str, file: LaidFile, found: str) -> None:
        super().__init__(found)
        self._model_id, self._file, self._found = model_id, file, found

    def told(self) -> ServiceError:
        expected = self._file.sha256
        return ServiceError(
            errors_pb2.ERROR_REASON_DIGEST_MISMATCH,
            f"The file {self._file.path!r} of the model came with the SHA-256 {self._found}, and "
            f"should have {expected}. It was damaged on its way, twice.",
            metadata={"path": self._file.path, "expected": expected, "found": self._found},
        )


def _append(file: BinaryIO, hasher: Hasher, data: bytes) -> None:
    file.write(data)
    hasher.update(data)


def _away(error: SourceAwayError) -> ServiceError:
    return ServiceError(
        errors_pb2.ERROR_REASON_DEPENDENCY_UNAVAILABLE,
        f"The registry, which has the files of the model, cannot be reached ({error}). What came "
        "is kept; try again.",
        retry_after=5.0,
        metadata={"dependency": "registry"},
    )


@asynccontextmanager
async def _first_failure() -> AsyncIterator[asyncio.TaskGroup]:
    """Run tasks together, and raise the failure of the first that fails, not a group of them."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
