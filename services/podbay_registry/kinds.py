"""The kinds of resource that the registry keeps."""

from __future__ import annotations

from typing import Final

from podbay.schema import platform
from podbay.v1 import errors_pb2
from podbay_kit.resource_filters import MODEL_FIELDS, SERVICE_FIELDS, ResourceKind

__all__ = ["MODELS", "SERVICES"]

MODELS: Final = ResourceKind(
    "Model",
    "model",
    platform.Model,
    errors_pb2.ERROR_REASON_MODEL_NOT_FOUND,
    MODEL_FIELDS,
)

SERVICES: Final = ResourceKind(
    "InferenceService",
    "inference service",
    platform.InferenceService,
    errors_pb2.ERROR_REASON_INFERENCE_SERVICE_NOT_FOUND,
    SERVICE_FIELDS,
)
