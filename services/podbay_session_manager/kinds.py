"""The kind of resource that the session manager keeps."""

from __future__ import annotations

from typing import Final

from podbay.schema import platform
from podbay.v1 import errors_pb2
from podbay_kit.resource_filters import SESSION_FIELDS, ResourceKind

__all__ = ["SESSIONS"]

SESSIONS: Final = ResourceKind(
    "InferenceSession",
    "inference session",
    platform.InferenceSession,
    errors_pb2.ERROR_REASON_INFERENCE_SESSION_NOT_FOUND,
    SESSION_FIELDS,
)
