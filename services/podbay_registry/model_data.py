"""What can be done with the files of models: offered, uploaded, finalized, listed, downloaded."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from podbay.schema import platform
from podbay.v1 import errors_pb2, model_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay_kit.blob_files import Digests, is_sha256
from podbay_kit.clock import Clock
from podbay_kit.errors import ServiceError, invalid
from podbay_kit.storage import Connection
from podbay_registry import model_life
from podbay_registry.account_room import check_room
from podbay_registry.blob_store import BlobStore
from podbay_registry.file_errors import stopping_error
from podbay_registry.file_keeper import FileKeeper
from podbay_registry.kinds import MODELS
from podbay_registry.model_file_pages import (
    awaited_files,
    page_of_files,
    path_of,
    stored_message,
)
from podbay_registry.model_logs import ModelLogs
from podbay_registry.operations import ResourceOperations
from podbay_registry.store import RegistryStore
from podbay_registry.uploads import Incoming, Uploads, part_name

__all__ = ["ModelData"]

_MAX_PAGE: Final = 1000
_MAX_OFFERS: Final = 1000
# Small enough to come through where lines break often.
_CHUNK: Final = 256 << 10
_LOG_BATCH: Final = 500

Send = Callable[[pb.DownloadModelFileResponse], Awaitable[None]]


class ModelData:
    """Serves the files of models to those who may have them.

    Args:
        store: The registry's database.
        models: The models, with their grants.
        blobs: The contents.
        uploads: Takes files in.
        logs: The models' logs.
        clock: Where the time comes from.
        keeper: Says whether the files are here.
        stopping: Ends downloads.
        stall_seconds: How long a download's reader may take nothing.
    """

    def __init__(
        self,
        store: RegistryStore,
        models: ResourceOperations[platform.Model],
        blobs: BlobStore,
        uploads: Uploads,
        logs: ModelLogs,
        clock: Clock,
        *,
        keeper: FileKeeper,
        stopping: asyncio.Event,
        stall_seconds: float,
    ) -> None:
        self._store = store
        self._models = models
        self._blobs = blobs
        self._uploads = uploads
        self._logs = logs
        self._clock = clock
        self._keeper = keeper
        self._stopping = stopping
        self._stall_seconds = stall_seconds

    async def list_files(self, request: pb.ListModelFilesRequest) -> pb.ListModelFilesResponse:
        """Return a page of the files of a model.

        Raises:
            ServiceError: MODEL_NOT_FOUND, INVALID_PAGE_TOKEN or INVALID_REQUEST.
        """
        if not 0 <= request.page_size <= _MAX_PAGE:
            raise invalid("pageSize", f"must be from 0 to {_MAX_PAGE}")
        size, after = request.page_size or _MAX_PAGE, path_of(request.page_token)
        model = await self._models.get(request.id)
        awaited = awaited_files(model)
        rows = await self._store.database.read(
            lambda conn: self._blobs.files.files(
                conn, model.id, after=after, limit=None if awaited else size + 1
            )
        )
        return page_of_files(awaited, rows, after=after, size=size)

    async def offer(self, request: pb.OfferModelFilesRequest) -> list[pb.ModelFileNeed]:
        """Take note of what files hold, and return those that must be uploaded.

        Raises:
            ServiceError: MODEL_NOT_FOUND, MODEL_NOT_UPLOADABLE, REFERENCE_DELETED,
                MODEL_FILE_NOT_FOUND, DIGEST_MISMATCH, ACCOUNT_STORAGE_FULL, MODEL_FILES_ELSEWHERE
                or INVALID_REQUEST.
        """
        self._keeper.check()
        if len(request.files) > _MAX_OFFERS:
            raise invalid("files", f"holds more than {_MAX_OFFERS} files")
        model = await self._models.get(request.id)
        awaited = awaited_files(model)
        wanted = [
            _offered(model, awaited, offer, f"files.{index}")
            for index, offer in enumerate(request.files)
        ]
        have = await self._store.database.read(lambda conn: self._known(conn, model, wanted))
        there = await self._blobs.run(self._on_disk, have)
        coming = self._blobs.incoming

        def take_note(conn: Connection) -> None:
            # All of it, and now: nobody shall send half of a folder in vain.
            check_room(
                self._store,
                conn,
                model.account,
                {each.sha256: each.size for each in wanted},
                coming,
            )
            self._link(conn, model.id, wanted, there)

        await self._store.feed.write(take_note)
        return [
            pb.ModelFileNeed(path=each.path, offset=self._blobs.part_size(each.part))
            for each in wanted
            if each.sha256 not in there
        ]

    async def upload(
        self, requests: AsyncIterator[pb.UploadModelFileRequest]
    ) -> model_pb2.ModelFile:
        """Take in one file.

        Raises:
            ServiceError: MODEL_FILES_ELSEWHERE, and what `offer` and `Uploads.receive` raise.
        """
        self._keeper.check()
        header = (await self._uploads.first(requests)).header
        model = await self._models.get(header.id)
        incoming = _offered(model, awaited_files(model), header.file, "header.file", header.offset)
        have = await self._store.database.read(lambda conn: self._known(conn, model, [incoming]))
        there = await self._blobs.run(self._on_disk, have)
        if there:
            # It came before, and the answer was lost.
            await self._store.feed.write(lambda conn: self._link(conn, model.id, [incoming], there))
            return stored_message(incoming.path, there[incoming.sha256])
        digests = await self._uploads.receive(incoming, requests)
        part = self._blobs.folder.part(incoming.part)
        await self._blobs.keep(
            part,
            digests,
            model.account,
            lambda conn: self._link(conn, model.id, [incoming], {incoming.sha256: digests}),
        )
        await self._log(model.id, f"uploaded {incoming.path} ({incoming.size} bytes)")
        return stored_message(incoming.path, digests)

    async def finalize(self, model_id: str) -> platform.Model:
        """Make a model ready whose files are all there.

        Raises:
            ServiceError: MODEL_NOT_FOUND, MODEL_FILES_MISSING, MODEL_NOT_UPLOADABLE or
                REFERENCE_DELETED, or MODEL_FILES_ELSEWHERE.
        """
        self._keeper.check()
        before = await self._models.get(model_id)
        now = self._clock.now()

        def change(conn: Connection) -> platform.Model:
            model = self._store.resources.get(conn, MODELS, model_id)
            files = self._blobs.files.files(conn, model_id)
            stored = {f.path: f.blob.digests for f in files if f.blob.damaged is None}
            model = model_life.finalized(model, stored, now)
            self._store.resources.update(conn, MODELS, model, now=now)
            return model

        model = await self._store.feed.write(change)
        if model.status != before.status:
            await self._log(model_id, "finalized: all files are there")
        return model

    async def download(self, request: pb.DownloadModelFileRequest, send: Send) -> None:
        """Send one file of a ready model from a byte on.

        Raises:
            ServiceError: MODEL_NOT_FOUND, MODEL_NOT_READY, REFERENCE_DELETED,
                MODEL_FILE_NOT_FOUND, MODEL_FILE_DAMAGED, TRANSFER_INTERRUPTED, SERVICE_STOPPING,
                MODEL_FILES_ELSEWHERE or INVALID_REQUEST.
        """
        self._keeper.check()
        model = await self._models.get(request.id)
        if model.status != platform.EntityStatus.ready:
            raise model_life.not_ready(model)
        stored = await self._store.database.read(
            lambda conn: self._blobs.files.file(conn, model.id, request.path)
        )
        if stored is None:
            raise _no_such_file(request.path)
        digests = stored.blob.digests
        if not 0 <= request.offset <= digests.size:
            raise invalid("offset", f"must be from 0 to the size, {digests.size}")
        file = await self._blobs.open_verified(model.id, stored)
        try:
            file.seek(request.offset)
            message = pb.DownloadModelFileResponse(file=stored_message(stored.path, digests))
            position = request.offset
            while True:
                data = await self._blobs.run(file.read, _CHUNK)
                if data:
                    message.chunk.offset, message.chunk.data = position, data
                    message.chunk.crc32 = zlib.crc32(data)
                if data or message.HasField("file"):
                    await self._send(send, message, position)
                if not data:
                    return
                position += len(data)
                message = pb.DownloadModelFileResponse()
        finally:
            file.close()

    async def log_lines(self, model_id: str) -> Iterator[list[str]]:
        """Return the log of a model in batches of lines.

        Raises:
            ServiceError: MODEL_NOT_FOUND or MODEL_FILES_ELSEWHERE.
        """
        self._keeper.check()
        model = await self._models.get(model_id)
        lines = iter(await self._blobs.run(lambda: list(self._logs.read(model.id))))
        return iter(lambda: list(islice(lines, _LOG_BATCH)), [])

    async def _send(self, send: Send, message: pb.DownloadModelFileResponse, offset: int) -> None:
        if self._stopping.is_set():
            raise stopping_error()
        try:
            async with asyncio.timeout(self._stall_seconds):
                await send(message)
        except TimeoutError:
            raise ServiceError(
                errors_pb2.ERROR_REASON_TRANSFER_INTERRUPTED,
                f"The reader took nothing for {self._stall_seconds:g} s. Go on at byte {offset}.",
                metadata={"offset": str(offset)},
            ) from None

    def _known(
        self, conn: Connection, model: platform.Model, wanted: Sequence[Incoming]
    ) -> dict[str, Digests]:
        """Return those of the contents that are there, and that the account has shown to have.

        Raises:
            ServiceError: DIGEST_MISMATCH.
        """
        files, known = self._blobs.files, dict[str, Digests]()
        ready = model.status == platform.EntityStatus.ready
        for each in wanted:
            stored = files.file(conn, model.id, each.path) if ready else None
            if stored is not None and stored.blob.digests.sha256 != each.sha256:
                raise _differs(each.path, stored.blob.digests.sha256, each.sha256)
            blob = files.blob(conn, each.sha256)
            if blob is None or not files.shown_by(conn, each.sha256, model.account):
                continue
            found = blob.digests
            if found.size != each.size:
                raise _differs(each.path, f"{each.size} bytes", f"{found.size} bytes")
            if each.md5 not in (None, found.md5):
                raise _differs(each.path, each.md5 or "", found.md5)
            if blob.damaged is None:
                known[each.sha256] = found
        return known

    def _on_disk(self, contents: dict[str, Digests]) -> dict[str, Digests]:
        """Return those contents whose files are there in their length; their use verifies more."""
        return {
            sha256: digests
            for sha256, digests in contents.items()
            if self._blobs.folder.size(sha256) == digests.size
        }

    def _link(
        self, conn: Connection, model_id: str, wanted: Sequence[Incoming], there: dict[str, Digests]
    ) -> None:
        """Make contents that are there the files of a model, if it still waits for them.

        Raises:
            ServiceError: MODEL_NOT_UPLOADABLE, REFERENCE_DELETED or ACCOUNT_STORAGE_FULL.
        """
        model = self._store.resources.get(conn, MODELS, model_id)
        if not _takes_files(model):
            raise model_life.not_uploadable(model)
        now = self._clock.now()
        found = [
            each
            for each in wanted
            if each.sha256 in there and self._blobs.files.blob(conn, each.sha256) is not None
        ]
        # Here it is exact: in the transaction that adds to what the account has.
        self._store.quotas.lock(conn, model.account)
        contents = {each.sha256: there[each.sha256].size for each in found}
        check_room(self._store, conn, model.account, contents, {})
        for each in found:
            self._blobs.files.link(conn, model_id, each.path, each.sha256, now)

    async def _log(self, model_id: str, text: str) -> None:
        await self._blobs.run(self._logs.write, model_id, text)


def _takes_files(model: platform.Model) -> bool:
    """Say whether a model waits for files, or takes those again that it has lost."""
    statuses = (platform.EntityStatus.waiting_for_upload, platform.EntityStatus.ready)
    uploaded = model.source.kind == platform.ModelSourceKinds.Upload
    return uploaded and model.status in statuses


def _offered(
    model: platform.Model,
    awaited: dict[str, platform.File],
    offer: pb.ModelFileOffer,
    path: str,
    offset: int = 0,
) -> Incoming:
    """Read which content a file has.

    Raises:
        ServiceError: MODEL_NOT_UPLOADABLE, REFERENCE_DELETED, MODEL_FILE_NOT_FOUND or
            INVALID_REQUEST.
    """
    if not _takes_files(model):
        raise model_life.not_uploadable(model)
    if not is_sha256(offer.sha256):
        raise invalid(f"{path}.sha256", "must be a SHA-256 sum in lower-case hex")
    if offset < 0:
        raise invalid("header.offset", "must not be negative")
    file = awaited.get(offer.path)
    if file is None:
        raise _no_such_file(offer.path)
    if offer.size != file.size:
        raise invalid(f"{path}.size", f"must be {file.size}, as the model was created with")
    return Incoming(
        part=part_name(model.id, offer.sha256),
        path=file.path,
        size=file.size,
        sha256=offer.sha256,
        md5=file.digest.md5,
        offset=offset,
    )


def _no_such_file(path: str) -> ServiceError:
    return ServiceError(
        errors_pb2.ERROR_REASON_MODEL_FILE_NOT_FOUND,
        f"The model has no file {path[:200]!r}. List its files: ListModelFiles, or podbay model "
        "files ID.",
        metadata={"path": path[:900]},
    )


def _differs(path: str, expected: str, found: str) -> ServiceError:
    return ServiceError(
        errors_pb2.ERROR_REASON_DIGEST_MISMATCH,
        f"The file {path!r} is to hold {expected}, and {found} was announced. Create another model "
        "for other content.",
        metadata={"path": path, "expected": expected, "found": found},
    )
