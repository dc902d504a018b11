"""What all parts of the SessionManagerService work with."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc

from podbay.schema import platform, requests
from podbay.v1 import errors_pb2
from podbay_kit.access import current_access
from podbay_kit.audit_log import AuditLog
from podbay_kit.clock import Clock
from podbay_kit.errors import ServiceError
from podbay_session_manager.admission import Admission, AdmissionRules, admit
from podbay_session_manager.driver_set import DriverSet
from podbay_session_manager.key_ring import KeyRing
from podbay_session_manager.live_state import LiveState
from podbay_session_manager.node_book import NodeBook
from podbay_session_manager.quota_book import QuotaBook
from podbay_session_manager.reconciler import Reconciler
from podbay_session_manager.registry_client import RegistryClient
from podbay_session_manager.runner_kinds import RunnerKind
from podbay_session_manager.share_desk import ShareDesk
from podbay_session_manager.store import SessionStore

__all__ = ["PLURAL", "Context", "Parts", "ServicerBase", "stopping_error"]

PLURAL: Final = "inferencesessions"
"""The name of sessions in grants."""

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a session manager."""

    store: SessionStore
    state: LiveState
    reconciler: Reconciler
    nodes: NodeBook
    drivers: DriverSet
    registry: RegistryClient
    keys: KeyRing
    clock: Clock
    stopping: asyncio.Event
    """Set when the service is about to stop: long streams end."""
    kinds: Mapping[str, RunnerKind]
    """How the kinds of runners are run."""
    shares: ShareDesk
    """The routers' shares of limits."""
    quotas: QuotaBook
    audit: AuditLog
    allow_egress: bool
    """Whether replicas may open connections to the outside that ask for it."""
    term: int = 0
    """In which term of leading this is."""

    def rules(self) -> AdmissionRules:
        """Return what the installation can do now."""
        drivers = self.drivers.by_kind
        return AdmissionRules(
            drivers=drivers,
            kinds=self.kinds,
            allow_egress=self.allow_egress,
            lacks_nodes=self.drivers.make is not None
            and not any(node.declared for node in self.nodes.nodes),
        )


class ServicerBase:
    """Holds the parts; says who may do what to a session."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def _session_for(self, session_id: str) -> platform.InferenceSession:
        """Return a session where the caller may do with it what the RPC that runs does.

        Raises:
            ServiceError: INFERENCE_SESSION_NOT_FOUND or PERMISSION_DENIED.
        """
        entity = await self._parts.store.get(session_id)
        current_access().permit(PLURAL, entity.account, entity.id)
        return entity

    async def _admitted(
        self, wanted: requests.InferenceSessionCreateRequest
    ) -> tuple[platform.InferenceService, Admission]:
        """Return the service of a new session, and how it is run.

        Raises:
            ServiceError: INFERENCE_SERVICE_NOT_FOUND, PERMISSION_DENIED, and those of `admit`.
        """
        service = await self._parts.registry.get_service(wanted.inferenceService)
        current_access().permit("inferenceservices", service.account, service.id)
        return service, admit(wanted, service, self._parts.rules(), self._parts.clock.now())


def stopping_error() -> ServiceError:
    """Return the error by which a stream ends when the service stops."""
    return ServiceError(
        errors_pb2.ERROR_REASON_SERVICE_STOPPING,
        "The session manager is about to stop. Sessions go on; ask again in a moment.",
        retry_after=1.0,
    )
