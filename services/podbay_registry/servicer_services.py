"""The RPCs on inference services."""

# ruff: noqa: ARG002 - every method of a servicer is given the request and its context.

from __future__ import annotations

from typing import Any

import grpc

from podbay.schema import convert, platform, requests
from podbay.schema.ids import generate_entity_id
from podbay.schema.serving import ServingOptions
from podbay.v1 import inference_service_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay_kit.access import Access, current_access
from podbay_kit.clock import Clock
from podbay_kit.resource_messages import read_creatable, read_valid
from podbay_kit.resource_request_store import RequestKey
from podbay_kit.storage import Connection
from podbay_registry import entities
from podbay_registry.kinds import MODELS, SERVICES
from podbay_registry.operations import ResourceOperations
from podbay_registry.page_messages import page_info
from podbay_registry.store import RegistryStore

__all__ = ["InferenceServiceServicer"]

_Specification = (
    requests.InferenceServiceCreateRequest | requests.LocalInferenceServiceCreateRequest
)


def _mounted_models(specification: _Specification) -> list[str]:
    """Return the ids of the models whose files a service mounts."""
    if isinstance(specification, requests.LocalInferenceServiceCreateRequest):
        return []
    mounts = (specification.runner.volumeMounts if specification.runner else None) or ()
    sources = [mount.data.source for mount in mounts if mount.data is not None]
    return [source.id for source in sources if source.kind == "Model"]


class InferenceServiceServicer:
    """The part of the RegistryService that serves inference services."""

    _store: RegistryStore
    _clock: Clock
    _services: ResourceOperations[platform.InferenceService]

    async def CreateInferenceService(
        self,
        request: pb.CreateInferenceServiceRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.CreateInferenceServiceResponse:
        """Register a service around an image."""
        message = request.inference_service
        specification = read_creatable(convert.from_proto, message, "inferenceService")
        key = RequestKey.of(specification.account, request.request_id, message, request.serving)
        service = await self._create(specification, request.serving, key)
        return pb.CreateInferenceServiceResponse(inference_service=convert.to_proto(service))

    async def CreateLocalInferenceService(
        self,
        request: pb.CreateLocalInferenceServiceRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.CreateLocalInferenceServiceResponse:
        """Register a mock, or a command that serves HTTP."""
        message = request.inference_service
        specification = read_creatable(convert.from_proto, message, "inferenceService")
        key = RequestKey.of(specification.account, request.request_id, message, request.serving)
        service = await self._create(specification, request.serving, key)
        return pb.CreateLocalInferenceServiceResponse(inference_service=convert.to_proto(service))

    async def _create(
        self,
        specification: _Specification,
        serving: inference_service_pb2.ServingOptions,
        key: RequestKey | None,
    ) -> platform.InferenceService:
        access = current_access()
        options: ServingOptions = read_valid(convert.from_proto, serving, "serving")
        access.permit_account(specification.account)
        now = self._clock.now()

        def insert(conn: Connection) -> platform.InferenceService:
            # First: the model may have been deleted since the request was made.
            if key is not None:
                before = self._store.resources.replay(conn, SERVICES, key, now=now)
                if before is not None:
                    return before
            for mounted in _mounted_models(specification):
                # Its replicas show the files to all who may call the service.
                self._model(conn, mounted, access)
            service = entities.new_service(
                specification,
                generate_entity_id(),
                now,
                serving=options,
                model=self._model(conn, specification.model, access),
            )
            return self._store.add_service(conn, service, now=now, request=key).entity

        return await self._store.feed.write(insert)

    def _model(
        self, conn: Connection, model_id: str | None, access: Access
    ) -> platform.ForeignModel | None:
        if model_id is None:
            return None
        model = self._store.resources.get(conn, MODELS, model_id)
        # The service shows the model to all who may see the service.
        access.permit("models", model.account, model.id)
        return entities.embedded(model)

    async def GetInferenceService(
        self,
        request: pb.GetInferenceServiceRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.GetInferenceServiceResponse:
        """Return a service."""
        service = await self._services.get(request.id)
        return pb.GetInferenceServiceResponse(inference_service=convert.to_proto(service))

    async def ListInferenceServices(
        self,
        request: pb.ListInferenceServicesRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.ListInferenceServicesResponse:
        """List services by page."""
        page = await self._services.list_page(request.filter, request.page)
        return pb.ListInferenceServicesResponse(
            inference_services=[convert.to_proto(service) for service in page.items],
            page=page_info(page.next_token, page.revision),
        )

    async def LabelInferenceService(
        self,
        request: pb.LabelInferenceServiceRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.LabelInferenceServiceResponse:
        """Set and remove labels."""
        service = await self._services.label(request.id, request.labels)
        return pb.LabelInferenceServiceResponse(inference_service=convert.to_proto(service))

    async def EditInferenceServiceDocumentation(
        self,
        request: pb.EditInferenceServiceDocumentationRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.EditInferenceServiceDocumentationResponse:
        """Change documentation."""
        documentation = await self._services.document(request.id, request.documentation)
        return pb.EditInferenceServiceDocumentationResponse(documentation=documentation)

    async def DeleteInferenceService(
        self,
        request: pb.DeleteInferenceServiceRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.DeleteInferenceServiceResponse:
        """Mark a service as deleted; its sessions go on."""
        return pb.DeleteInferenceServiceResponse(status=await self._services.delete(request.id))

    async def WatchInferenceServices(
        self,
        request: pb.WatchInferenceServicesRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Send changes from a revision on, and progress while there are none."""
        async for event in self._services.watch(request.filter, request.after_revision):
            response = pb.WatchInferenceServicesResponse(revision=event.revision, type=event.type)
            if event.entity is not None:
                response.inference_service.CopyFrom(convert.to_proto(event.entity))
            await context.write(response)
