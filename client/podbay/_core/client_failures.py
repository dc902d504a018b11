"""What fails at the client, told to the router so that the session's status shows it. Pure.

Pipelines run at the client, and what is no request is refused here: no service would know of it.
One message is under way at a time; what fails meanwhile is summed up by reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from podbay.errors import PodbayError
from podbay.schema.adapters import AdapterError
from podbay.v1 import errors_pb2
from podbay.v1 import inference_router_service_pb2 as wire

__all__ = ["TELL_SECONDS", "ClientFailures", "failure_of"]

TELL_SECONDS: Final = 5.0
"""How long it is tried to tell the router."""

_MOST_BYTES: Final = 1024
_MOST_ENTRIES: Final = 16
_MOST_CALLS: Final = 1_000_000
_REASONS: Final[Mapping[str, errors_pb2.ErrorReason.ValueType]] = {
    "ADAPTER_FAILED": errors_pb2.ERROR_REASON_ADAPTER_FAILED,
    "INVALID_REQUEST": errors_pb2.ERROR_REASON_INVALID_REQUEST,
    "MALFORMED_JSON": errors_pb2.ERROR_REASON_MALFORMED_JSON,
    "BODY_TOO_LARGE": errors_pb2.ERROR_REASON_BODY_TOO_LARGE,
}


class ClientFailures:
    """What is to be told, by reason."""

    def __init__(self) -> None:
        self._waiting: dict[int, wire.ClientFailure] = {}
        self._under_way: wire.ClientFailure | None = None

    def note(self, error: Exception) -> bool:
        """Count a failure; return whether it is one that the router is told of."""
        failure = failure_of(error)
        if failure is None:
            return False
        self._add(failure)
        return True

    def next(self) -> wire.ClientFailure | None:
        """Return what to tell now; None where there is nothing, or something is under way."""
        if self._under_way is not None or not self._waiting:
            return None
        reason = next(iter(self._waiting))
        self._under_way = self._waiting.pop(reason)
        return self._under_way

    def done(self, *, told: bool) -> None:
        """Note the end of what was under way; what was not told is told with the next failure."""
        failure, self._under_way = self._under_way, None
        if failure is None or told:
            return
        newer = self._waiting.pop(failure.reason, None)
        self._add(failure)
        if newer is not None:
            self._add(newer)

    def _add(self, failure: wire.ClientFailure) -> None:
        known = self._waiting.get(failure.reason)
        if known is not None:
            failure.count = min(failure.count + known.count, _MOST_CALLS)
        self._waiting[failure.reason] = failure


def failure_of(error: Exception) -> wire.ClientFailure | None:
    """Return what the router is told of an error; None where it is none of the client's own.

    What an adapter that is not of `podbay.schema.adapters` raises may hold parts of a body.
    """
    if isinstance(error, AdapterError):
        message = str(error)
    elif isinstance(error, PodbayError) and error.reason in _REASONS:
        message = error.message
    else:
        return None
    return wire.ClientFailure(
        reason=_REASONS[error.reason],
        message=_cut(message, _MOST_BYTES),
        metadata={
            key: _cut(value, _MOST_BYTES - len(key.encode()))
            for key, value in sorted(error.metadata.items())[:_MOST_ENTRIES]
        },
        count=1,
    )


def _cut(text: str, limit: int) -> str:
    # A text with a lone surrogate could not be sent.
    return text.encode(errors="replace")[:limit].decode(errors="ignore")
