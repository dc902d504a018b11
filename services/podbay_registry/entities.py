"""New resources, and what happens to them. Pure: ids and times are handed in."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from podbay.schema import platform, requests
from podbay.schema.serving import ServingOptions
from podbay.v1 import errors_pb2
from podbay_kit.errors import ServiceError
from podbay_registry import model_life

__all__ = ["deleted", "documented", "embedded", "new_model", "new_service", "status_of"]

_Entity = TypeVar("_Entity", bound=platform.DyffEntity)


def new_model(
    request: requests.ModelCreateRequest, model_id: str, now: datetime, *, fetching: bool
) -> platform.Model:
    """Return the model that a request asks for.

    Args:
        request: The specification.
        model_id: Its id.
        now: The time.
        fetching: Whether this registry fetches files.
    """
    start = model_life.start_of(request.source, request.artifact, fetching=fetching)
    return platform.Model(
        id=model_id,
        account=request.account,
        creationTime=now,
        status=start.status,
        message=start.message,
        name=request.name,
        artifact=request.artifact,
        source=request.source,
        resources=request.resources,
        accelerators=request.accelerators,
        storage=request.storage,
    )


def embedded(model: platform.Model) -> platform.ForeignModel:
    """Return a model as a service embeds it.

    Raises:
        ServiceError: REFERENCE_DELETED.
    """
    if model.status == platform.EntityStatus.deleted:
        raise ServiceError(
            errors_pb2.ERROR_REASON_REFERENCE_DELETED,
            "The model was deleted. Name another model, or register it again.",
            metadata={"model": model.id},
        )
    return platform.ForeignModel(
        id=model.id,
        account=model.account,
        name=model.name,
        artifact=model.artifact,
        storage=model.storage,
    )


def new_service(
    request: requests.InferenceServiceCreateRequest | requests.LocalInferenceServiceCreateRequest,
    service_id: str,
    now: datetime,
    *,
    serving: ServingOptions,
    model: platform.ForeignModel | None,
) -> platform.InferenceService:
    """Return the service that a request asks for.

    It is ready: an image is named by its digest, and a mock or a command needs no building.
    """
    service = platform.InferenceService(
        id=service_id,
        account=request.account,
        creationTime=now,
        status=platform.EntityStatus.ready,
        annotations=serving.to_annotations(),
        name=request.name,
        interface=request.interface,
        model=model,
    )
    if isinstance(request, requests.LocalInferenceServiceCreateRequest):
        return service.model_copy(update={"runner": request.to_runner()})
    return service.model_copy(
        update={
            "runner": request.runner,
            "builder": request.builder,
            "outputViews": request.outputViews,
        }
    )


def documented(entity: _Entity, edit: requests.DocumentationEditRequest) -> _Entity:
    """Return a resource with changed documentation: a null removes, what is not set stays."""
    changes = edit.documentation
    update = {name: getattr(changes, name) for name in changes.model_fields_set}
    documentation = entity.metadata.documentation.model_copy(update=update)
    metadata = entity.metadata.model_copy(update={"documentation": documentation})
    return entity.model_copy(update={"metadata": metadata})


def deleted(entity: _Entity, now: datetime) -> _Entity:
    """Return a resource that is marked as deleted; one that was before stays as it is."""
    if entity.status == platform.EntityStatus.deleted:
        return entity
    return entity.model_copy(
        update={
            "status": str(platform.EntityStatus.deleted),
            "reason": str(platform.EntityStatusReason.delete_command),
            "message": None,
            "lastTransitionTime": now,
        }
    )


def status_of(entity: _Entity) -> platform.Status:
    """Return where a resource stands."""
    return platform.Status(status=entity.status, reason=entity.reason, message=entity.message)
