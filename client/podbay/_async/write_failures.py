"""How a stream ended, also where a message was being written when it did."""

from __future__ import annotations

from typing import Any

__all__ = ["keep_status"]


def keep_status(rpc: Any) -> None:
    """Let a failed write not stand for the status of its RPC.

    Where the other side ends a stream while a message is being written, the write fails. grpc.aio
    then makes INTERNAL of the RPC, although its status is about to come, and gives out nothing of
    what came before it. So a router that ended a stream well, as it does when it is renewed, would
    seem to have broken it. There is no public way to leave that out: the call below the RPC is
    replaced by one that does not take the invented status, and all else is the same. (grpcio is
    pinned exactly; `test_client_async_drain.py` fails where this does not work any more.)

    Args:
        rpc: A call of grpc.aio; one that has nothing of the kind is left as it is.
    """
    below = getattr(rpc, "_cython_call", None)
    if below is not None:
        rpc._cython_call = _KeepsStatus(below)  # noqa: SLF001 # see above


class _KeepsStatus:
    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def set_internal_error(self, error: str) -> None:
        """Leave the status to come; whoever writes waits for it."""
