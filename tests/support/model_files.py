"""Files of models for tests, and uploads of them piece by piece."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from podbay.v1 import model_pb2
from podbay.v1 import registry_service_pb2 as pb
from tests.support.registry import Registry

__all__ = [
    "chunks_of",
    "download",
    "header_of",
    "md5",
    "offer",
    "offer_of",
    "sha256",
    "upload",
    "upload_all",
    "uploaded_model",
]


def sha256(data: bytes) -> str:
    """Return the SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def md5(data: bytes) -> str:
    """Return the MD5 in base64."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


async def uploaded_model(
    registry: Registry, files: Mapping[str, bytes], *, token: str | None = None, **fields: Any
) -> model_pb2.Model:
    """Register a model that waits for files."""
    volume = model_pb2.Volume(
        files=[
            model_pb2.VolumeFile(path=path, size=len(data), digest=model_pb2.Digest(md5=md5(data)))
            for path, data in files.items()
        ]
    )
    return await registry.model(
        token,
        source=model_pb2.ModelSource(kind="Upload"),
        artifact=model_pb2.ModelArtifact(kind="Volume", volume=volume),
        **fields,
    )


def offer_of(path: str, data: bytes) -> pb.ModelFileOffer:
    """Return the offer of a file."""
    return pb.ModelFileOffer(path=path, size=len(data), sha256=sha256(data))


def header_of(
    model: str, path: str, data: bytes, offset: int = 0, **changes: Any
) -> pb.UploadModelFileRequest:
    """Return the first message of an upload."""
    file = pb.ModelFileOffer(**{"path": path, "size": len(data), "sha256": sha256(data), **changes})
    return pb.UploadModelFileRequest(header=pb.UploadHeader(id=model, file=file, offset=offset))


def chunks_of(data: bytes, offset: int = 0, size: int = 1 << 20) -> list[pb.UploadModelFileRequest]:
    """Return the messages that bring data from an offset on."""
    return [
        pb.UploadModelFileRequest(
            chunk=pb.FileChunk(
                offset=start,
                data=data[start : start + size],
                crc32=zlib.crc32(data[start : start + size]),
            )
        )
        for start in range(offset, len(data), size)
    ]


async def offer(
    registry: Registry, model: str, files: Mapping[str, bytes], *, token: str | None = None
) -> dict[str, int]:
    """Offer files, and return where to begin with those that are missing."""
    request = pb.OfferModelFilesRequest(
        id=model, files=[offer_of(path, data) for path, data in files.items()]
    )
    answer = await registry.call("OfferModelFiles", request, token=token)
    return {need.path: need.offset for need in answer.needs}


async def upload(
    registry: Registry,
    model: str,
    path: str,
    data: bytes,
    *,
    offset: int = 0,
    token: str | None = None,
    chunk: int = 1 << 20,
) -> model_pb2.ModelFile:
    """Upload a file from an offset on."""
    messages = [header_of(model, path, data, offset), *chunks_of(data, offset, chunk)]
    answer = await registry.stub.UploadModelFile(
        _each(messages), metadata=registry.metadata(token), timeout=30
    )
    file: model_pb2.ModelFile = answer.file
    return file


async def _each(messages: list[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


async def upload_all(
    registry: Registry, model: str, files: Mapping[str, bytes], *, token: str | None = None
) -> model_pb2.Model:
    """Upload what is missing, and finalize the model."""
    for path, offset in (await offer(registry, model, files, token=token)).items():
        await upload(registry, model, path, files[path], offset=offset, token=token)
    answer = await registry.call("FinalizeModel", pb.FinalizeModelRequest(id=model), token=token)
    made: model_pb2.Model = answer.model
    return made


async def download(
    registry: Registry, model: str, path: str, *, offset: int = 0, token: str | None = None
) -> bytes:
    """Download a file from an offset on."""
    request = pb.DownloadModelFileRequest(id=model, path=path, offset=offset)
    data = bytearray()
    async for answer in registry.stub.DownloadModelFile(
        request, metadata=registry.metadata(token), timeout=30
    ):
        assert answer.HasField("file") == (not data)
        if answer.HasField("chunk"):
            assert answer.chunk.offset == offset + len(data)
            assert answer.chunk.crc32 == zlib.crc32(answer.chunk.data)
            assert len(answer.chunk.data) <= 1 << 20
            data += answer.chunk.data
    return bytes(data)
