"""Calls and streams, as the Exchange core sees them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from podbay.errors import PodbayError
from podbay.v1 import inference_router_service_pb2 as wire

__all__ = ["Call", "CallState", "Delivery", "Stream"]

# What a call costs in a batch besides its body.
_CALL_OVERHEAD: Final = 64

Delivery = tuple["Call", Sequence[wire.Item], bool, PodbayError | None]
"""A call, further items of its answer, whether that was the last of it, and why it failed."""


class CallState(enum.Enum):
    """Where a call is."""

    QUEUED = enum.auto()
    """It was not handed to a transport, or is known not to have been begun."""
    SENT = enum.auto()
    """It was handed to a transport and is not answered."""
    DONE = enum.auto()
    """It was answered, or nobody waits for it any more."""


@dataclass(slots=True, eq=False)
class Call:
    """One call, from its start to its end.

    Attributes:
        endpoint: The path at the replica.
        body: JSON text, or a file; or what failed at the client, which no replica gets.
        stream: Whether pieces are wanted as they come.
        deadline: When the router shall give up, on the clock of `next_batch`.
        sink: The face's: where deliveries go.
        state: Where it is.
        id: Its id on its stream.
        carrier: The stream that it was handed to.
        affinity: What calls that belong to the same replica share; "" for any replica.
        trace: The trace context that it belongs to: traceparent and tracestate.
        replica_id: The replica that answers; "" before its first piece.
        unread: About how many bytes of its pieces the caller has not taken.
        paused: Whether the router was told to send no more of them for now.
    """

    endpoint: str
    body: bytes | wire.FileUpload | wire.ClientFailure
    stream: bool
    deadline: float
    sink: Any = None
    state: CallState = CallState.QUEUED
    id: int = 0
    carrier: Stream | None = None
    affinity: str = ""
    trace: tuple[str, str] = ("", "")
    replica_id: str = ""
    unread: int = 0
    paused: bool = False

    @property
    def size(self) -> int:
        """About how many bytes it has in a message."""
        body = self.body
        return _CALL_OVERHEAD + (len(body) if isinstance(body, bytes) else body.ByteSize())


@dataclass(slots=True, eq=False)
class Stream:
    """One Exchange RPC.

    Attributes:
        token_number: Which token it was opened with.
        sent: The calls on it that are not answered, by id; those that nobody waits for included.
        cancels: The ids whose cancels are to be sent.
        flow: The ids of streamed calls that the router is to be told of: True to pause, False to
            go on.
        retired: True from the moment no new calls belong on it.
        draining: True once the router said that it is about to stop.
        used: True once a call was handed to it.
        good: True once a call was answered on it.
    """

    token_number: int
    sent: dict[int, Call] = field(default_factory=dict)
    cancels: list[int] = field(default_factory=list)
    flow: dict[int, bool] = field(default_factory=dict)
    retired: bool = False
    draining: bool = False
    used: bool = False
    good: bool = False

    @property
    def finished(self) -> bool:
        """Whether nothing is to be sent or awaited on it any more."""
        return self.retired and not self.sent and not self.cancels
