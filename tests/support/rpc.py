"""Read what a failed RPC says."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2


def details_of(error: grpc.RpcError) -> tuple[error_details_pb2.ErrorInfo, Any]:
    """Return the ErrorInfo and the BadRequest (or None) of a failed RPC."""
    metadata: Any = error.trailing_metadata()
    for key, value in metadata or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            break
    else:
        raise AssertionError(f"no details in {error!r}")
    info, bad, found_bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), None
    for detail in status.details:
        detail.Unpack(info)
        if detail.Is(bad.DESCRIPTOR):
            detail.Unpack(bad)
            found_bad = bad
    assert info.domain == "podbay.dev"
    return info, found_bad
