"""The contents of models' files: on disk by their digests, within a quota, verified before use.

A content is written down only once its file is on the disk, and its file is removed only once it
is written down no more. What a crash leaves in between is put right at the next start.
"""

from __future__ import annotations

import asyncio
import errno
import io
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final, ParamSpec, TypeVar

from podbay_kit.blob_files import (
    BlobFolder,
    ClosingError,
    DamagedFileError,
    Digests,
    remove_tree,
)
from podbay_kit.clock import Clock
from podbay_kit.errors import ServiceError
from podbay_kit.storage import Connection
from podbay_registry.account_room import FETCHING, check_room
from podbay_registry.file_errors import disk_full, file_damaged, quota_full, stopping_error
from podbay_registry.file_store import FileStore, StoredFile
from podbay_registry.store import RegistryStore

__all__ = ["BlobStore"]

P = ParamSpec("P")
T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_THREADS: Final = 4
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_KEEP_UNUSED: Final = timedelta(days=7)
_KEEP_PARTS: Final = timedelta(days=1)
_FETCHED: Final = "fetched."


class BlobStore:
    """Keeps contents. To be used on one event loop, by one process.

    Args:
        store: The registry's database.
        root: The folder of the files.
        quota: The most bytes that all files may have; None for what the disk holds.
        clock: Where the time comes from.
    """

    def __init__(
        self, store: RegistryStore, root: Path, *, quota: int | None, clock: Clock
    ) -> None:
        self.files: Final = FileStore()
        self.folder: Final = BlobFolder(root / "blobs")
        self.staging: Final = root / "fetching"
        """Where files are that are being fetched, in a folder for each model."""
        self.quota = quota
        self._store = store
        self._clock = clock
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="podbay-files")
        # A file and its row change as one thing.
        self._changing = asyncio.Lock()
        # Bytes of parts that lie on the disk, and of what is about to come, by their names.
        self._parts: dict[str, int] = {}
        self._claims: dict[str, int] = {}
        self._keeping: set[asyncio.Future[Any]] = set()
        # Contents that are about to be referred to.
        self._pins: list[set[str]] = []

    async def start(self) -> None:
        """Make the folders, and put right what a crash has left."""
        await self.run(self.folder.prepare)
        await self.run(lambda: self.staging.mkdir(parents=True, exist_ok=True, mode=0o700))
        rows = await self._store.database.read(self.files.every)
        orphans = await self.run(self._remove_orphans, frozenset(rows))
        if orphans:
            _LOG.info("%d files that nothing refers to were removed", orphans)
        self._parts = await self.run(self._look_at_parts)

    async def close(self) -> None:
        """Give up what runs, and end the threads."""
        await asyncio.gather(*self._keeping, return_exceptions=True)
        self.folder.verifier.closing.set()
        await asyncio.to_thread(self._threads.shutdown)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what blocks on files in a thread.

        Raises:
            ServiceError: STORAGE_FULL where the disk is full; SERVICE_STOPPING at the end.
        """
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))
        try:
            # The thread goes on where the caller goes away; it must not write beside the next one.
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            _discard(future)
            raise
        except OSError as error:
            if error.errno in _FULL:
                raise disk_full() from error
            raise
        except ClosingError:
            raise stopping_error() from None

    @asynccontextmanager
    async def claimed(self, name: str, size: int) -> AsyncIterator[None]:
        """Keep room for a number of bytes while they are written.

        What no model refers to makes room, the least recently used first.

        Args:
            name: What they are for; where it is a part, those of its bytes that are there count.
            size: How many there will be.

        Raises:
            ServiceError: STORAGE_FULL or ACCOUNT_STORAGE_FULL.
        """
        await self.claim(name, size)
        try:
            yield
        finally:
            self._claims.pop(name, None)

    async def claim(self, name: str, size: int) -> None:
        """Change what a name claims.

        Raises:
            ServiceError: STORAGE_FULL, or ACCOUNT_STORAGE_FULL where it is for a model.
        """
        async with self._changing:
            await self._check_account(name, size)
            await self._make_room(size - max(self._parts.get(name, 0), self._claims.get(name, 0)))
            self._claims[name] = size

    @contextmanager
    def pinned(self) -> Iterator[set[str]]:
        """Give a set; contents that are put into it are not forgotten, although unreferred to."""
        mine = set[str]()
        self._pins.append(mine)
        try:
            yield mine
        finally:
            self._pins.remove(mine)

    async def keep(
        self,
        source: Path,
        digests: Digests,
        account: str,
        record: Callable[[Connection], T] | None = None,
    ) -> T | None:
        """Take a verified file in, and write it down.

        Args:
            source: The file, on the file system of the store. It is moved.
            digests: Its digests.
            account: Whose it is.
            record: What else belongs into the same transaction.

        Raises:
            ServiceError: STORAGE_FULL or STORE_UNAVAILABLE.
        """
        keeping = asyncio.ensure_future(self._keep(source, digests, account, record))
        self._keeping.add(keeping)
        keeping.add_done_callback(self._keeping.discard)
        # It ends also where the caller goes away: a file without a row would have to come again.
        return await asyncio.shield(keeping)

    async def _keep(
        self,
        source: Path,
        digests: Digests,
        account: str,
        record: Callable[[Connection], T] | None,
    ) -> T | None:
        now = self._clock.now()

        def write(conn: Connection) -> T | None:
            self.files.put(conn, digests, account, now)
            return None if record is None else record(conn)

        await self.run(self.folder.settle, source)
        async with self._changing:
            await self.run(self.folder.keep, source, digests.sha256)
            self.part_is(source.name, 0)
            try:
                return await self._store.feed.write(write)
            except ServiceError:
                await self._drop_unwritten(digests.sha256)
                raise

    async def open_verified(self, model: str, file: StoredFile) -> BinaryIO:
        """Open a file of a model for reading, once its content was verified.

        Raises:
            ServiceError: MODEL_FILE_DAMAGED.
        """
        sha256 = file.blob.digests.sha256
        try:
            # A damaged one that was written down may have been mended by hand; it is looked at.
            opened = await self.run(self.folder.open_verified, sha256)
        except DamagedFileError as error:
            found = error.found
            if file.blob.damaged != found:
                _LOG.error("the file of %s was found to be %s", sha256, found or "gone")
            await self._store.database.write(lambda conn: self.files.damage(conn, sha256, found))
            raise file_damaged(model, file, found) from None
        now = self._clock.now()
        try:
            await self._store.database.write(lambda conn: self.files.touch(conn, sha256, now))
        except BaseException:
            opened.close()
            raise
        return opened

    def part_size(self, name: str) -> int:
        """Return how many bytes of a part are there."""
        return self._parts.get(name, 0)

    def part_is(self, name: str, size: int) -> None:
        """Note how many bytes of a part are there now."""
        if size:
            self._parts[name] = size
        else:
            self._parts.pop(name, None)

    async def keep_fetched(self, path: Path, digests: Digests, account: str) -> None:
        """Take in a file that was fetched, and leave it where it is as well.

        A fetch that starts again then finds it there.

        Raises:
            ServiceError: STORAGE_FULL or STORE_UNAVAILABLE.
        """
        part = self.folder.part(f"{_FETCHED}{uuid.uuid4().hex}")
        await self.run(part.hardlink_to, path)
        await self.keep(part, digests, account)

    async def drop_part(self, name: str) -> None:
        """Remove a part."""
        await self.run(self.folder.part(name).unlink, missing_ok=True)
        self.part_is(name, 0)

    async def drop_staging(self, model: str) -> None:
        """Remove what was fetched of a model and not kept."""
        await self.run(remove_tree, self.staging / model)

    async def maintain(self, active: Callable[[str], bool]) -> None:
        """Forget contents that nothing has used for a week, and parts that nothing goes on with.

        Args:
            active: Says whether an upload writes a part now.
        """
        now = self._clock.now()
        async with self._changing:
            await self._store.database.write(self.files.release)
            old = await self._store.database.read(
                lambda conn: self.files.unused(conn, before=now - _KEEP_UNUSED)
            )
            await self._forget(sha256 for sha256, _ in old if not self._is_pinned(sha256))
        before = (now - _KEEP_PARTS).timestamp()
        parts = await self.run(lambda: list(self.folder.parts()))
        for name, stat in parts:
            if stat.st_mtime < before and not active(name):
                await self.drop_part(name)

    async def _make_room(self, size: int) -> None:
        if self.quota is None or size <= 0:
            return
        used = await self._used()
        if used + size > self.quota:
            await self._store.database.write(self.files.release)
            doomed, freed = list[str](), 0
            for sha256, length in await self._store.database.read(self.files.unused):
                if used - freed + size <= self.quota:
                    break
                if self._is_pinned(sha256):
                    continue
                doomed.append(sha256)
                freed += length
            if used - freed + size > self.quota:
                raise quota_full(size, used - freed, self.quota)
            await self._forget(doomed)

    @property
    def incoming(self) -> dict[str, int]:
        """The bytes of what is on its way, as they are or shall be, by the names of the parts."""
        coming = {**self._claims}
        for name, size in self._parts.items():
            coming[name] = max(size, coming.get(name, 0))
        return coming

    async def _check_account(self, name: str, size: int) -> None:
        """Let a claim pass for which the quota of the model's account has room."""
        model, _, content = name.partition(".")
        if name.startswith(FETCHING):
            model, content = name.removeprefix(FETCHING), name
        others = {key: length for key, length in self.incoming.items() if key != name}

        def check(conn: Connection) -> None:
            account = self._store.quotas.account_of(conn, model)
            if account is not None:
                check_room(self._store, conn, account, {content: size}, others)

        await self._store.database.read(check)

    async def _used(self) -> int:
        total = await self._store.database.read(self.files.total)
        return total + sum(self.incoming.values())

    def _is_pinned(self, sha256: str) -> bool:
        return any(sha256 in pins for pins in self._pins)

    async def _drop_unwritten(self, sha256: str) -> None:
        """Remove a file that could not be written down."""
        with suppress(ServiceError):  # the next start finds it where the store is away
            if await self._store.database.read(lambda conn: self.files.blob(conn, sha256)) is None:
                await self.run(self.folder.remove, sha256)

    async def _forget(self, digests: Iterable[str]) -> None:
        doomed = list(digests)
        if not doomed:
            return
        await self._store.database.write(lambda conn: self.files.forget(conn, doomed))
        for sha256 in doomed:
            await self.run(self.folder.remove, sha256)

    def _look_at_parts(self) -> dict[str, int]:
        """Return the parts of uploads by name, and remove those of fetches."""
        parts = dict[str, int]()
        for name, stat in list(self.folder.parts()):
            if name.startswith(_FETCHED):
                self.folder.part(name).unlink(missing_ok=True)
            else:
                parts[name] = stat.st_size
        return parts

    def _remove_orphans(self, known: frozenset[str]) -> int:
        orphans = [sha256 for sha256, _ in self.folder.stored() if sha256 not in known]
        for sha256 in orphans:
            self.folder.remove(sha256)
        return len(orphans)


def _discard(future: asyncio.Future[Any]) -> None:
    """See to the outcome of work that nobody waits for any more."""
    if future.cancelled():
        return
    if future.exception() is not None:
        _LOG.debug("abandoned work on files failed", exc_info=future.exception())
    elif isinstance(future.result(), io.IOBase):
        future.result().close()
