"""Which of several session managers to ask. Pure, but for reading gRPC's errors."""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

__all__ = ["Leaders", "leader_of"]

_DETAILS_KEY: Final = "grpc-status-details-bin"


class Leaders:
    """The session managers that are known, and the one to ask next.

    Args:
        endpoints: Their "host:port", by commas.
    """

    def __init__(self, endpoints: str) -> None:
        self._known = [part.strip() for part in endpoints.split(",") if part.strip()]
        self.endpoint = self._known[0]
        """The one to ask."""

    @property
    def count(self) -> int:
        """How many are known."""
        return len(self._known)

    def failed(self, endpoint: str) -> None:
        """Ask the next one, as this one does not answer or does not lead."""
        if endpoint == self.endpoint:
            position = self._known.index(endpoint)
            self.endpoint = self._known[(position + 1) % len(self._known)]

    def follow(self, endpoint: str) -> bool:
        """Ask the one that another named as the one that leads; say whether it is known.

        What is named is where clients reach it, which need not be where routers do.
        """
        if endpoint not in self._known:
            return False
        self.endpoint = endpoint
        return True


def leader_of(error: grpc.aio.AioRpcError) -> str:
    """Return whom a session manager that stands by names as the one that leads; empty for none."""
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            status = status_pb2.Status.FromString(value)
        except DecodeError:
            return ""
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info) and info.reason == "NOT_LEADER":
                return str(info.metadata.get("leader", ""))
    return ""
