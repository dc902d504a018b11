"""The RegistryService as one servicer."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Final

from podbay.schema import platform
from podbay.v1 import registry_service_pb2 as pb
from podbay.v1 import registry_service_pb2_grpc as rpc
from podbay_kit.audit_log import AuditLog
from podbay_kit.clock import Clock
from podbay_registry.authentication import RegistryAuthenticator
from podbay_registry.blob_store import BlobStore
from podbay_registry.fetcher import Fetcher
from podbay_registry.kinds import SERVICES
from podbay_registry.model_data import ModelData
from podbay_registry.operations import ResourceOperations
from podbay_registry.servicer_accounts import AccountServicer
from podbay_registry.servicer_audit import AuditServicer
from podbay_registry.servicer_model_data import ModelDataServicer
from podbay_registry.servicer_models import ModelServicer
from podbay_registry.servicer_quotas import QuotaServicer
from podbay_registry.servicer_services import InferenceServiceServicer
from podbay_registry.store import RegistryStore

__all__ = ["SERVICE_NAME", "RegistryServicer"]

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["RegistryService"].full_name


class RegistryServicer(  # type: ignore[misc] # the stubs know no streams by context.write()
    AccountServicer,
    QuotaServicer,
    ModelServicer,
    ModelDataServicer,
    InferenceServiceServicer,
    AuditServicer,
    rpc.RegistryServiceServicer,
):
    """Serves accounts, API tokens, models and inference services.

    Args:
        store: What it keeps.
        authenticator: Tells whom a token acts for.
        clock: Where the time comes from.
        models: The models.
        data: The files of models.
        blobs: Where they are.
        fetcher: Fetches the files of models.
        audit: The audit log.
        stopping: Set when the server is about to stop.
        installation_id: The id of the installation.
        session_manager_endpoint: The session manager's address.
        inference_router_endpoint: The inference router's address.
    """

    def __init__(
        self,
        store: RegistryStore,
        authenticator: RegistryAuthenticator,
        clock: Clock,
        *,
        models: ResourceOperations[platform.Model],
        data: ModelData,
        blobs: BlobStore,
        fetcher: Fetcher,
        audit: AuditLog,
        stopping: asyncio.Event,
        installation_id: str,
        session_manager_endpoint: str,
        inference_router_endpoint: str,
    ) -> None:
        self._store = store
        self._authenticator = authenticator
        self._clock = clock
        self._models = models
        self._data = data
        self._blobs = blobs
        self._stopping = stopping
        self._fetcher = fetcher
        self._audit = audit
        self._services = ResourceOperations(
            SERVICES, "inferenceservices", store=store, clock=clock, stopping=stopping
        )
        self._installation = pb.GetInstallationResponse(
            installation_id=installation_id,
            version=version("podbay"),
            session_manager_endpoint=session_manager_endpoint,
            inference_router_endpoint=inference_router_endpoint,
        )
