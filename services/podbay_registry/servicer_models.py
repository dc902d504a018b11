"""The RPCs on models."""

# ruff: noqa: ARG002 - every method of a servicer is given the request and its context.

from __future__ import annotations

from typing import Any

import grpc

from podbay.schema import convert, platform
from podbay.schema.ids import generate_entity_id
from podbay.v1 import registry_service_pb2 as pb
from podbay_kit.access import current_access
from podbay_kit.clock import Clock
from podbay_kit.resource_messages import read_creatable
from podbay_kit.resource_request_store import RequestKey
from podbay_kit.storage import Connection
from podbay_registry import entities
from podbay_registry.fetcher import Fetcher
from podbay_registry.operations import ResourceOperations
from podbay_registry.page_messages import page_info
from podbay_registry.store import RegistryStore

__all__ = ["ModelServicer"]


class ModelServicer:
    """The part of the RegistryService that serves models."""

    _store: RegistryStore
    _clock: Clock
    _models: ResourceOperations[platform.Model]
    _fetcher: Fetcher

    async def CreateModel(
        self, request: pb.CreateModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CreateModelResponse:
        """Register a model."""
        specification = read_creatable(convert.from_proto, request.model, "model")
        account = specification.account
        key = RequestKey.of(account, request.request_id, request.model)
        current_access().permit_account(account)
        now = self._clock.now()
        model = entities.new_model(
            specification, generate_entity_id(), now, fetching=self._fetcher.enabled
        )

        def insert(conn: Connection) -> platform.Model:
            return self._store.add_model(conn, model, now=now, request=key).entity

        made = await self._store.feed.write(insert)
        self._fetcher.wake()
        return pb.CreateModelResponse(model=convert.to_proto(made))

    async def GetModel(
        self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetModelResponse:
        """Return a model."""
        model = await self._models.get(request.id)
        return pb.GetModelResponse(model=convert.to_proto(model))

    async def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListModelsResponse:
        """List models by page."""
        page = await self._models.list_page(request.filter, request.page)
        return pb.ListModelsResponse(
            models=[convert.to_proto(model) for model in page.items],
            page=page_info(page.next_token, page.revision),
        )

    async def LabelModel(
        self, request: pb.LabelModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.LabelModelResponse:
        """Set and remove labels."""
        model = await self._models.label(request.id, request.labels)
        return pb.LabelModelResponse(model=convert.to_proto(model))

    async def EditModelDocumentation(
        self,
        request: pb.EditModelDocumentationRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.EditModelDocumentationResponse:
        """Change documentation."""
        documentation = await self._models.document(request.id, request.documentation)
        return pb.EditModelDocumentationResponse(documentation=documentation)

    async def DeleteModel(
        self, request: pb.DeleteModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DeleteModelResponse:
        """Mark a model as deleted."""
        status = await self._models.delete(request.id)
        self._fetcher.wake()
        return pb.DeleteModelResponse(status=status)

    async def WatchModels(
        self, request: pb.WatchModelsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Send changes from a revision on, and progress while there are none."""
        async for event in self._models.watch(request.filter, request.after_revision):
            response = pb.WatchModelsResponse(revision=event.revision, type=event.type)
            if event.entity is not None:
                response.model.CopyFrom(convert.to_proto(event.entity))
            await context.write(response)
