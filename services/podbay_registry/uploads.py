"""One file comes in over one stream; where it breaks off, another goes on from the byte."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from podbay.v1 import errors_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay_kit.blob_files import Digests, Hasher
from podbay_kit.errors import ServiceError, invalid
from podbay_kit.tasks import ended
from podbay_registry.blob_store import BlobStore
from podbay_registry.file_errors import stopping_error

__all__ = ["MAX_CHUNK", "Incoming", "Uploads", "part_name"]

MAX_CHUNK: Final = 1 << 20
"""The most bytes of one chunk."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A file that comes.

    Attributes:
        part: The name under which it is written.
        path: Its path in the model, for errors.
        size: Its length in bytes.
        sha256: What it must hold.
        md5: What it must hold, too; None where the model does not say.
        offset: Where the stream begins.
    """

    part: str
    path: str
    size: int
    sha256: str
    md5: str | None
    offset: int


class _Active:
    """A stream that writes a part."""

    def __init__(self) -> None:
        self.superseded = asyncio.Event()
        self.ended = asyncio.Event()


class Uploads:
    """Takes files in.

    Args:
        blobs: Where they go.
        stopping: Ends what runs.
        stall_seconds: How long a stream may bring nothing.
    """

    def __init__(self, blobs: BlobStore, *, stopping: asyncio.Event, stall_seconds: float) -> None:
        self._blobs = blobs
        self._stopping = stopping
        self._stall_seconds = stall_seconds
        self._active: dict[str, _Active] = {}

    def is_active(self, part: str) -> bool:
        """Say whether a stream writes a part now."""
        return part in self._active

    async def first(
        self, requests: AsyncIterator[pb.UploadModelFileRequest]
    ) -> pb.UploadModelFileRequest:
        """Return the first message of a stream, which says what comes.

        Raises:
            ServiceError: TRANSFER_INTERRUPTED or INVALID_REQUEST.
        """
        try:
            async with asyncio.timeout(self._stall_seconds):
                first = await anext(requests, None)
        except TimeoutError:
            raise _interrupted(f"Nothing came for {self._stall_seconds:g} s.", 0) from None
        if first is None or first.WhichOneof("part") != "header":
            raise invalid("header", "is required in the first message")
        return first

    async def receive(
        self, incoming: Incoming, requests: AsyncIterator[pb.UploadModelFileRequest]
    ) -> Digests:
        """Write what a stream brings, and return the digests of the whole file in its part.

        A newer stream takes the place of one that may have lost its client without a word.

        Raises:
            ServiceError: UPLOAD_OFFSET_MISMATCH, TRANSFER_INTERRUPTED, DIGEST_MISMATCH,
                STORAGE_FULL, INVALID_REQUEST or SERVICE_STOPPING. What came is kept, unless its
                digest is wrong.
        """
        while (before := self._active.get(incoming.part)) is not None:
            before.superseded.set()
            await before.ended.wait()
        mine = self._active[incoming.part] = _Active()
        try:
            return await self._receive(incoming, requests, mine)
        finally:
            del self._active[incoming.part]
            mine.ended.set()

    async def _receive(
        self,
        incoming: Incoming,
        requests: AsyncIterator[pb.UploadModelFileRequest],
        mine: _Active,
    ) -> Digests:
        blobs = self._blobs
        there = blobs.part_size(incoming.part)
        if there > incoming.size:
            await blobs.drop_part(incoming.part)
            there = 0
        if incoming.offset != there:
            raise _offset_mismatch(there)
        async with blobs.claimed(incoming.part, incoming.size):
            file = await blobs.run(blobs.folder.part(incoming.part).open, "a+b")
            try:
                hasher = await self._begun(file, there)
                await self._write(incoming, requests, mine, file, hasher)
            finally:
                # The disk knows best how much of the last chunk it has taken.
                left = await blobs.run(_close, file)
                blobs.part_is(incoming.part, left)
        digests = hasher.digests()
        wrong = _difference(incoming, digests)
        if wrong is not None:
            await blobs.drop_part(incoming.part)
            raise wrong
        return digests

    async def _begun(self, file: BinaryIO, there: int) -> Hasher:
        """Return the digests of what came before."""
        hasher = Hasher()
        if there:
            file.seek(0)
            await self._blobs.run(
                hasher.update_from, file, there, self._blobs.folder.verifier.closing
            )
        return hasher

    async def _write(
        self,
        incoming: Incoming,
        requests: AsyncIterator[pb.UploadModelFileRequest],
        mine: _Active,
        file: BinaryIO,
        hasher: Hasher,
    ) -> None:
        watch = _Interruptions(mine.superseded, self._stopping, self._stall_seconds)
        try:
            while hasher.size < incoming.size:
                request = await watch.read(requests, hasher.size)
                if request is None:
                    raise _interrupted("The stream ended before the file did.", hasher.size)
                data = _checked(request, hasher.size, incoming.size)
                # One chunk at a time: the client waits while the disk does.
                await self._blobs.run(_append, file, hasher, data)
                self._blobs.part_is(incoming.part, hasher.size)
        finally:
            await watch.close()


class _Interruptions:
    """Reads from a stream, unless something else comes first."""

    def __init__(
        self, superseded: asyncio.Event, stopping: asyncio.Event, stall_seconds: float
    ) -> None:
        self._stall_seconds = stall_seconds
        self._superseded = asyncio.ensure_future(superseded.wait())
        self._stopping = asyncio.ensure_future(stopping.wait())

    async def read(
        self, requests: AsyncIterator[pb.UploadModelFileRequest], offset: int
    ) -> pb.UploadModelFileRequest | None:
        """Return the next message; None where the client has ended the stream.

        Raises:
            ServiceError: TRANSFER_INTERRUPTED or SERVICE_STOPPING.
        """
        reading = asyncio.ensure_future(_next(requests))
        try:
            done, _ = await asyncio.wait(
                {reading, self._superseded, self._stopping},
                timeout=self._stall_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            await ended(reading)
        if reading in done:
            return reading.result()
        if self._superseded.done():
            raise _interrupted("Another upload of the file has taken the place of this.", offset)
        if self._stopping.done():
            raise stopping_error()
        raise _interrupted(f"Nothing came for {self._stall_seconds:g} s.", offset)

    async def close(self) -> None:
        """Wait for nothing any more."""
        for waiting in (self._superseded, self._stopping):
            waiting.cancel()
        await asyncio.gather(self._superseded, self._stopping, return_exceptions=True)


def part_name(model: str, sha256: str) -> str:
    """Return the name of the part of a file: each model has its own.

    So nobody can spoil the upload of another by beginning it with other bytes.
    """
    return f"{model}.{sha256}"


async def _next(
    requests: AsyncIterator[pb.UploadModelFileRequest],
) -> pb.UploadModelFileRequest | None:
    return await anext(requests, None)


def _checked(request: pb.UploadModelFileRequest, position: int, size: int) -> bytes:
    if request.WhichOneof("part") != "chunk":
        raise invalid("chunk", "is required in every message after the first")
    chunk = request.chunk
    if len(chunk.data) > MAX_CHUNK:
        raise invalid("chunk.data", f"must not be longer than {MAX_CHUNK} bytes")
    if chunk.offset != position:
        raise _offset_mismatch(position)
    if position + len(chunk.data) > size:
        raise invalid("chunk.data", "goes beyond the size that was announced")
    if chunk.HasField("crc32") and chunk.crc32 != zlib.crc32(chunk.data):
        raise _interrupted("A chunk was damaged on its way: its CRC-32 is another.", position)
    return chunk.data


def _append(file: BinaryIO, hasher: Hasher, data: bytes) -> None:
    file.write(data)
    file.flush()
    hasher.update(data)


def _close(file: BinaryIO) -> int:
    with suppress(OSError):  # what is still buffered of a write that failed is given up
        file.close()
    return Path(file.name).stat().st_size


def _difference(incoming: Incoming, found: Digests) -> ServiceError | None:
    pairs = (
        ("SHA-256", incoming.sha256, found.sha256),
        ("MD5", incoming.md5 or found.md5, found.md5),
    )
    for name, expected, got in pairs:
        if expected != got:
            return ServiceError(
                errors_pb2.ERROR_REASON_DIGEST_MISMATCH,
                f"The file {incoming.path!r} has the {name} {got}, and {expected} was announced. "
                "What came is given up: upload it again. Did the file change meanwhile?",
                metadata={"path": incoming.path, "expected": expected, "found": got},
            )
    return None


def _offset_mismatch(offset: int) -> ServiceError:
    return ServiceError(
        errors_pb2.ERROR_REASON_UPLOAD_OFFSET_MISMATCH,
        f"The upload goes on at byte {offset}. Begin there.",
        metadata={"offset": str(offset)},
    )


def _interrupted(what: str, offset: int) -> ServiceError:
    return ServiceError(
        errors_pb2.ERROR_REASON_TRANSFER_INTERRUPTED,
        f"{what} What came is kept: go on at byte {offset}.",
        retry_after=0.1,
        metadata={"offset": str(offset)},
    )
