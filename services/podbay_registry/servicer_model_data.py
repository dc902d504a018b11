"""The RPCs on the files of models."""

# ruff: noqa: ARG002 - every method of a servicer is given the request and its context.

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from podbay.schema import convert
from podbay.v1 import registry_service_pb2 as pb
from podbay_registry.model_data import ModelData

__all__ = ["ModelDataServicer"]


class ModelDataServicer:
    """The part of the RegistryService that serves the files of models."""

    _data: ModelData

    async def ListModelFiles(
        self, request: pb.ListModelFilesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListModelFilesResponse:
        """List the files of a model by page."""
        return await self._data.list_files(request)

    async def OfferModelFiles(
        self, request: pb.OfferModelFilesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.OfferModelFilesResponse:
        """Take note of what files hold, and say which must be uploaded."""
        return pb.OfferModelFilesResponse(needs=await self._data.offer(request))

    async def UploadModelFile(
        self,
        request_iterator: AsyncIterator[pb.UploadModelFileRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.UploadModelFileResponse:
        """Take in one file."""
        return pb.UploadModelFileResponse(file=await self._data.upload(aiter(request_iterator)))

    async def FinalizeModel(
        self, request: pb.FinalizeModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.FinalizeModelResponse:
        """Make a model ready whose files are all there."""
        model = await self._data.finalize(request.id)
        return pb.FinalizeModelResponse(model=convert.to_proto(model))

    async def DownloadModelFile(
        self, request: pb.DownloadModelFileRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Send one file from a byte on."""
        await self._data.download(request, context.write)

    async def StreamModelLogs(
        self, request: pb.StreamModelLogsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Send the log of a model."""
        for lines in await self._data.log_lines(request.id):
            await context.write(pb.StreamModelLogsResponse(lines=lines))
