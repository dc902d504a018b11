"""The files of models on a node: fetched once, verified, laid out, kept while they are used.

A model is a read-only folder whose files are links to contents that are kept by their SHA-256, so
that models that share files share their room. It appears whole, and stays until the room is needed
and nothing holds it.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from podbay.v1 import errors_pb2
from podbay_kit.blob_files import BlobFolder, DamagedFileError, Hasher, Verifier, remove_tree
from podbay_kit.clock import Clock, SystemClock
from podbay_kit.errors import ServiceError
from podbay_kit.model_cache_plan import CachedModel, plan_eviction
from podbay_kit.model_layout import LaidFile, Layout, lay_out, plan_layout
from podbay_kit.model_source import ModelFilesSource, SourceAwayError
from podbay_kit.process import write_private

__all__ = ["CacheProgress", "ModelCache"]

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_THREADS: Final = 4
_FILES_AT_ONCE: Final = 4
# A verified file is read again after a day, where its times have not changed before.
_TRUST_SECONDS: Final = 86_400.0
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
        self._root = root
        self._models = root / "models"
        self._manifests = root / "manifests"
        self._blobs = BlobFolder(root / "blobs", Verifier(_TRUST_SECONDS))
        self._source = source
        self._quota = quota
        self._clock: Clock = clock or SystemClock()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="podbay-model-cache")
        self._transfers: dict[str, _Transfer] = {}
        self._holders: dict[str, set[str]] = {}
        # Contents that come now, each once, whichever models want them.
        self._incoming: dict[str, asyncio.Lock] = {}
        self._room = asyncio.Lock()

    async def start(self) -> None:
        """Make the folders, and remove what a crash has left half made."""
        await self._run(self._prepare)

    async def close(self) -> None:
        """Give up what comes; what came is kept for another time."""
        tasks = [t.task for t in self._transfers.values() if t.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._blobs.verifier.closing.set()
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
            folder = self._folder(model_id)
            layout = await self._run(self._sound_layout, model_id)
            if layout is None:
                layout = await self._plan(model_id)
                await self._fetch_all(model_id, layout, transfer)
                await self._run(self._lay_out, model_id, layout)
            await self._run(self._used, model_id)
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
            missing = await self._run(self._missing, layout)
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
            if await self._run(self._is_sound, file.sha256):
                # Another model has brought it meanwhile.
                came(file.sha256, file.size)
                return
            await self._patiently(lambda: self._fetch_once(model_id, file, came))

    async def _fetch_once(
        self, model_id: str, file: LaidFile, came: Callable[[str, int], None]
    ) -> None:
        part = self._blobs.part(file.sha256)
        opened = await self._run(part.open, "a+b")
        try:
            hasher = await self._run(self._begun, opened, file.size)
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
        await self._run(self._blobs.settle, part)
        await self._run(self._blobs.keep, part, file.sha256)

    def _begun(self, opened: BinaryIO, size: int) -> Hasher:
        """Return the digests of what came before."""
        if os.fstat(opened.fileno()).st_size > size:
            opened.truncate(0)
        opened.seek(0)
        hasher = Hasher()
        hasher.update_from(opened, closing=self._blobs.verifier.closing)
        return hasher

    async def _patiently(self, attempt: Callable[[], Any]) -> Any:
        """Try until the source can be asked, for a while."""
        deadline = self._clock.monotonic() + _PATIENCE_SECONDS
        pause, spoiled = _FIRST_PAUSE, 0
        while True:
            try:
                return await attempt()
            except SourceAwayError as error:
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
        models, there = await self._run(self._inventory)
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
            await self._run(self._drop_parts, wanted)
        if plan.models or plan.contents:
            _LOG.info("%d models leave the cache of models", len(plan.models))
            await self._run(self._evict, plan.models, plan.contents)

    async def _run(self, function: Callable[..., T], *args: Any) -> T:
        """Run what blocks in a thread; it runs to its end where the caller goes away.

        Raises:
            ServiceError: STORAGE_FULL, where the disk is full.
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

    # What follows blocks, and runs in threads.

    def _prepare(self) -> None:
        self._blobs.prepare()
        self._drop_parts(frozenset(), _TRUST_SECONDS)
        for folder in (self._models, self._manifests):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in self._models.iterdir():
            # Half made, or half removed.
            if path.name.startswith(".") or not self._manifest(path.name).exists():
                remove_tree(path)

    def _folder(self, model_id: str) -> Path:
        if not model_id or model_id.startswith(".") or "/" in model_id or "\0" in model_id:
            raise ValueError("not the id of a model")
        return self._models / model_id

    def _manifest(self, model_id: str) -> Path:
        return self._manifests / f"{model_id}.json"

    def _read_manifest(self, model_id: str) -> Layout | None:
        try:
            listed = json.loads(self._manifest(model_id).read_text(encoding="utf-8"))
            return plan_layout(LaidFile(**each) for each in listed)
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _sound_layout(self, model_id: str) -> Layout | None:
        """Return the layout of a model that is there and as it should be; remove any other."""
        layout, folder = self._read_manifest(model_id), self._folder(model_id)
        if layout is None or not folder.is_dir():
            return None
        for file in layout.files:
            try:
                self._blobs.verifier.open(folder / file.path, file.sha256).close()
            except DamagedFileError as error:
                _LOG.warning(
                    "%s of the model %s is damaged, and is fetched again: %s",
                    file.path,
                    model_id,
                    error,
                )
                remove_tree(folder)
                return None
        return layout

    def _is_sound(self, sha256: str) -> bool:
        try:
            self._blobs.open_verified(sha256).close()
        except DamagedFileError:
            return False
        return True

    def _missing(self, layout: Layout) -> list[str]:
        return [sha256 for sha256 in layout.content if not self._is_sound(sha256)]

    def _lay_out(self, model_id: str, layout: Layout) -> None:
        folder = self._folder(model_id)
        remove_tree(folder)
        listed = [{"path": f.path, "sha256": f.sha256, "size": f.size} for f in layout.files]
        write_private(self._manifest(model_id), json.dumps(listed))
        lay_out(layout, self._blobs.path, folder)

    def _used(self, model_id: str) -> None:
        now = self._clock.now().timestamp()
        os.utime(self._manifest(model_id), (now, now))

    def _inventory(self) -> tuple[list[CachedModel], dict[str, int]]:
        models = []
        for path in self._manifests.glob("*.json"):
            layout = self._read_manifest(path.stem)
            if layout is not None:
                models.append(CachedModel(path.stem, layout.content, path.stat().st_mtime))
        return models, dict(self._blobs.stored())

    def _drop_parts(self, wanted: frozenset[str], older_than: float = 0.0) -> None:
        """Remove parts of contents that nobody waits for."""
        before = self._clock.now().timestamp() - older_than
        for name, found in list(self._blobs.parts()):
            if name not in wanted and found.st_mtime <= before:
                self._blobs.part(name).unlink(missing_ok=True)

    def _evict(self, models: tuple[str, ...], contents: frozenset[str]) -> None:
        for model_id in models:
            # The manifest first: a folder without one is removed at the next start.
            self._manifest(model_id).unlink(missing_ok=True)
            remove_tree(self._folder(model_id))
        for sha256 in contents:
            self._blobs.remove(sha256)


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
