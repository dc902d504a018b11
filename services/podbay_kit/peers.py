"""Which service may make which call: one table, and who the peer of a connection is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from podbay.schema.identities import (
    INFERENCE_ROUTER,
    SESSION_MANAGER,
    Identity,
    parse_identity,
)
from podbay.v1 import errors_pb2
from podbay_kit.auth import Principal
from podbay_kit.errors import ServiceError

__all__ = ["CALLERS", "identity_of", "principal_of"]

_REGISTRY: Final = "/podbay.v1.RegistryService/"
_SESSION_MANAGER: Final = "/podbay.v1.SessionManagerService/"

CALLERS: Final[Mapping[str, frozenset[str]]] = {
    f"{_REGISTRY}Authenticate": frozenset({SESSION_MANAGER}),
    f"{_REGISTRY}GetInferenceService": frozenset({SESSION_MANAGER}),
    f"{_REGISTRY}GetAccountQuota": frozenset({SESSION_MANAGER}),
    f"{_REGISTRY}WatchAccountQuotas": frozenset({SESSION_MANAGER}),
    f"{_REGISTRY}GetModel": frozenset({SESSION_MANAGER}),
    f"{_REGISTRY}ListModelFiles": frozenset({SESSION_MANAGER}),
    f"{_REGISTRY}DownloadModelFile": frozenset({SESSION_MANAGER}),
    f"{_SESSION_MANAGER}WatchRoutes": frozenset({INFERENCE_ROUTER}),
    f"{_SESSION_MANAGER}AcknowledgeRoutes": frozenset({INFERENCE_ROUTER}),
    f"{_SESSION_MANAGER}ShareLimits": frozenset({INFERENCE_ROUTER}),
    f"{_SESSION_MANAGER}ReportReplica": frozenset({INFERENCE_ROUTER}),
    f"{_SESSION_MANAGER}ReportUsage": frozenset({INFERENCE_ROUTER}),
}
"""By method: the services whose certificate lets them make the call. No service makes another."""


def identity_of(auth_context: Mapping[str, Any]) -> Identity | None:
    """Return the identity in the certificate of a connection's peer; None where there is none.

    Args:
        auth_context: What gRPC tells of the connection. It has names of certificates only where
            it has verified them.
    """
    found = [
        identity
        for uri in auth_context.get("peer_uri", ())
        if (identity := parse_identity(uri.decode("ascii", "replace"))) is not None
    ]
    return found[0] if len(found) == 1 else None


def principal_of(peer: Identity, installation: str, method: str) -> Principal | None:
    """Return whom a peer with a certificate acts for in a call; None where its token tells.

    Args:
        peer: Who the peer is.
        installation: The name of this installation.
        method: The call, as "/podbay.v1.RegistryService/Authenticate".

    Raises:
        ServiceError: SERVICE_IDENTITY_DENIED.
    """
    if peer.installation == installation:
        if not peer.is_service:
            return None
        if peer.name in CALLERS.get(method, ()):
            return Principal(account="", token_id=f"service:{peer.name}", service=True)
    allowed = ", ".join(sorted(CALLERS.get(method, ())))
    raise ServiceError(
        errors_pb2.ERROR_REASON_SERVICE_IDENTITY_DENIED,
        f"The certificate of the caller is that of {peer.uri}, which may not make this call"
        + (f"; in the installation {installation} this may: {allowed}." if allowed else ".")
        + " A service needs the certificate that was issued for it (podbay certs issue); whoever "
        "is no service calls the port for clients with a token.",
        metadata={"identity": peer.uri, "method": method},
    )
