"""The clients: `Client`, its asynchronous twin `AsyncClient`, and those of one session."""

from podbay._async.client import AsyncClient
from podbay._async.inference import AsyncInferenceSessionClient
from podbay._core.filters import ListFilter, ModelFilter, ServiceFilter, SessionFilter
from podbay._sync.client import Client
from podbay._sync.inference import InferenceSessionClient

__all__ = [
    "AsyncClient",
    "AsyncInferenceSessionClient",
    "Client",
    "InferenceSessionClient",
    "ListFilter",
    "ModelFilter",
    "ServiceFilter",
    "SessionFilter",
]
