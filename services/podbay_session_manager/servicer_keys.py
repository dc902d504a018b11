"""The RPCs on the keys of session tokens."""

# ruff: noqa: ARG002 - every method of a servicer is given the request and its context.

from __future__ import annotations

from google.protobuf import timestamp_pb2

from podbay.v1 import session_manager_service_pb2 as pb
from podbay_kit.access import current_access
from podbay_session_manager.servicer_base import Context, ServicerBase

__all__ = ["KeyServicer"]


class KeyServicer(ServicerBase):
    """The part of the SessionManagerService that serves the keys of session tokens."""

    async def ListSigningKeys(
        self, request: pb.ListSigningKeysRequest, context: Context
    ) -> pb.ListSigningKeysResponse:
        """List the keys, without their secrets."""
        current_access().permit_installation()
        return pb.ListSigningKeysResponse(keys=self._keys())

    async def RotateSigningKeys(
        self, request: pb.RotateSigningKeysRequest, context: Context
    ) -> pb.RotateSigningKeysResponse:
        """Make a new key, and sign by it."""
        current_access().permit_installation()
        await self._parts.keys.rotate()
        return pb.RotateSigningKeysResponse(keys=self._keys())

    def _keys(self) -> list[pb.SigningKey]:
        signing = self._parts.keys.signing.kid
        return [
            pb.SigningKey(
                kid=row.kid,
                creation_time=_timestamp(row.created_at),
                signing=row.kid == signing,
                verifies_until=_timestamp(row.verifies_until) if row.verifies_until else None,
            )
            for row in self._parts.keys.keys
        ]


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromMicroseconds(round(seconds * 1_000_000))
    return stamp
