"""The files of models as another service fetches them from the registry."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Protocol

import grpc
from google.rpc import error_details_pb2, status_pb2

from podbay.v1 import errors_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay_kit.errors import ERROR_DOMAIN, ServiceError
from podbay_kit.model_layout import LaidFile

__all__ = ["ModelFilesSource", "RegistryModelFiles", "SourceAwayError"]

_TIMEOUT: Final = 10.0
_AWAY: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
    }
)


class SourceAwayError(Exception):
    """The source cannot be asked now, or broke off; another try may go well."""


class ModelFilesSource(Protocol):
    """Where the files of models come from."""

    async def list_files(self, model_id: str) -> list[LaidFile]:
        """Return the files of a ready model.

        Raises:
            ServiceError: There is no such model, or it is not ready.
            SourceAwayError: It cannot be asked now.
        """
        ...

    def read(self, model_id: str, path: str, offset: int) -> AsyncIterator[bytes]:
        """Yield the bytes of a file from an offset on.

        Raises:
            ServiceError: There is no such file, or it is damaged.
            SourceAwayError: It cannot be asked now, or broke off.
        """
        ...


class RegistryModelFiles:
    """The registry as the source of models' files.

    Args:
        stub: A stub of the RegistryService.
        metadata: What goes along with each call, to say who calls.
        explain: Told of calls that the registry does not answer; says why in a few words.
    """

    def __init__(
        self,
        stub: Any,
        metadata: Sequence[tuple[str, str]],
        explain: Callable[[grpc.aio.AioRpcError], str] = lambda error: error.code().name,
    ) -> None:
        self._stub = stub
        self._metadata = tuple(metadata)
        self._explain = explain

    async def list_files(self, model_id: str) -> list[LaidFile]:
        """Return the files of a ready model.

        Raises:
            ServiceError: MODEL_NOT_FOUND, MODEL_NOT_READY or REFERENCE_DELETED.
            SourceAwayError: The registry cannot be asked now.
        """
        files, token = list[LaidFile](), ""
        try:
            answer = await self._stub.GetModel(
                pb.GetModelRequest(id=model_id), metadata=self._metadata, timeout=_TIMEOUT
            )
            _check_ready(answer.model)
            while True:
                page = await self._stub.ListModelFiles(
                    pb.ListModelFilesRequest(id=model_id, page_token=token),
                    metadata=self._metadata,
                    timeout=_TIMEOUT,
                )
                files += [LaidFile(one.path, one.sha256, one.size) for one in page.files]
                token = page.next_page_token
                if not token:
                    return files
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error

    async def read(self, model_id: str, path: str, offset: int) -> AsyncIterator[bytes]:
        """Yield the bytes of a file from an offset on.

        Raises:
            ServiceError: MODEL_FILE_NOT_FOUND, MODEL_FILE_DAMAGED, MODEL_NOT_READY or the like.
            SourceAwayError: The registry cannot be asked now, or broke off.
        """
        request = pb.DownloadModelFileRequest(id=model_id, path=path, offset=offset)
        call = self._stub.DownloadModelFile(request, metadata=self._metadata)
        try:
            async for answer in call:
                chunk = answer.chunk
                if not chunk.data:
                    continue
                if chunk.offset != offset or chunk.crc32 != zlib.crc32(chunk.data):
                    raise SourceAwayError("a chunk was damaged on its way")
                offset += len(chunk.data)
                yield chunk.data
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error
        finally:
            call.cancel()

    def _failure(self, error: grpc.aio.AioRpcError) -> Exception:
        """Return what a failed call means: as the registry says, or that it is away."""
        if error.code() in _AWAY:
            return SourceAwayError(self._explain(error))
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin" and isinstance(value, bytes):
                told = _told(status_pb2.Status.FromString(value))
                if told is not None:
                    return told
        return SourceAwayError(self._explain(error))


def _check_ready(model: Any) -> None:
    if model.status == "Deleted":
        raise ServiceError(
            errors_pb2.ERROR_REASON_REFERENCE_DELETED,
            "The model was deleted, and its files with it. Create a service with another model.",
            metadata={"model": model.id},
        )
    if model.status != "Ready":
        why = f": {model.message}" if model.message else ""
        raise ServiceError(
            errors_pb2.ERROR_REASON_MODEL_NOT_READY,
            f"The files of the model are not there: it is {model.status}{why}",
            metadata={"model": model.id, "status": model.status, "reason": model.reason},
        )


def _told(status: status_pb2.Status) -> ServiceError | None:
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == ERROR_DOMAIN:
            name = f"ERROR_REASON_{info.reason}"
            if name in errors_pb2.ErrorReason.keys():  # noqa: SIM118 # an enum wrapper is no mapping
                reason = errors_pb2.ErrorReason.Value(name)
                return ServiceError(reason, status.message, metadata=dict(info.metadata))
    return None
