"""The SessionManagerService: converts, asks who may, and calls what decides."""

from __future__ import annotations

from typing import Final

from podbay.v1 import session_manager_service_pb2 as pb
from podbay.v1.session_manager_service_pb2_grpc import SessionManagerServiceServicer
from podbay_session_manager.servicer_accounts import AccountServicer
from podbay_session_manager.servicer_explain import ExplainServicer
from podbay_session_manager.servicer_keys import KeyServicer
from podbay_session_manager.servicer_nodes import NodeServicer
from podbay_session_manager.servicer_routes import RouteServicer
from podbay_session_manager.servicer_sessions import SessionServicer
from podbay_session_manager.servicer_status import StatusServicer

__all__ = ["SERVICE_NAME", "SessionManagerServicer"]

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["SessionManagerService"].full_name
"""The full name of the service."""


class SessionManagerServicer(  # type: ignore[misc] # the stubs know no streams by context.write()
    SessionServicer,
    StatusServicer,
    ExplainServicer,
    NodeServicer,
    KeyServicer,
    RouteServicer,
    AccountServicer,
    SessionManagerServiceServicer,
):
    """Every RPC of the session manager."""
