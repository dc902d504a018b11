"""The bookkeeping of one `infer_many`: what is in flight, what is ready, what comes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any

from podbay._core.arguments import text
from podbay._core.exchange import Call
from podbay._core.wire_errors import invalid
from podbay.types import InferResult
from podbay.v1 import inference_router_service_pb2 as wire

__all__ = ["Many"]


@dataclass(slots=True)
class _Entry:
    index: int
    deadline: float
    items: list[wire.Item] = field(default_factory=list)


class Many:
    """Which bodies are where.

    In order, at most twice `max_in_flight` results are under way or wait for an earlier one.

    Args:
        max_in_flight: The most calls that are not answered.
        ordered: Whether results come in the order of the bodies.
        decode: Makes the user's items of those of the wire and the call's replica; may raise.
        affinity: The key of all calls, or what makes one of a body; may raise.

    Raises:
        InvalidRequestError: `max_in_flight` is no whole number from 1 on, or `affinity` is neither
            a text that can be sent nor a function.
    """

    def __init__(
        self,
        max_in_flight: int,
        *,
        ordered: bool,
        decode: Callable[[Sequence[wire.Item], str], list[Any]],
        affinity: str | Callable[[Any], str] = "",
    ) -> None:
        try:
            self._max_in_flight = index(max_in_flight)
        except TypeError:
            raise invalid("max_in_flight", "must be a whole number, 1 or more") from None
        if self._max_in_flight < 1:
            raise invalid("max_in_flight", "must be a whole number, 1 or more")
        self._ordered = ordered
        self._decode = decode
        self._affinity = affinity if callable(affinity) else text(affinity, "affinity")
        self._in_flight: dict[Call, _Entry] = {}  # by age
        self._ready: deque[InferResult] = deque()
        self._early: dict[int, InferResult] = {}
        self._next_index = 0
        self._next_out = 0

    @property
    def wants_body(self) -> bool:
        """Whether there is room for another call."""
        if len(self._in_flight) >= self._max_in_flight:
            return False
        return not self._ordered or (self._next_index - self._next_out < 2 * self._max_in_flight)

    @property
    def calls(self) -> list[Call]:
        """The calls that are not answered, oldest first."""
        return list(self._in_flight)

    @property
    def oldest(self) -> tuple[Call, float] | None:
        """The oldest call that is not answered, and when the client gives it up."""
        for call, entry in self._in_flight.items():
            return call, entry.deadline
        return None

    def key_of(self, body: Any) -> str:
        """Return the affinity key of a body.

        Raises:
            InvalidRequestError: What was made of it is no text.
            Exception: Whatever makes the keys raises.
        """
        if isinstance(self._affinity, str):
            return self._affinity
        return text(self._affinity(body), "affinity")

    def started(self, call: Call, deadline: float) -> None:
        """Note the call of the next body.

        Args:
            call: The call.
            deadline: When the client gives it up.
        """
        self._in_flight[call] = _Entry(self._next_index, deadline)
        self._next_index += 1

    def refused(self, error: Exception) -> None:
        """Note that the next body made no call."""
        self._put(InferResult(self._next_index, None, error))
        self._next_index += 1

    def delivered(
        self, call: Call, items: Sequence[wire.Item], done: bool, error: Exception | None
    ) -> None:
        """Note what came for a call."""
        entry = self._in_flight.get(call)
        if entry is None:
            return
        entry.items.extend(items)
        if not done:
            return
        del self._in_flight[call]
        if error is not None:
            self._put(InferResult(entry.index, None, error))
            return
        try:
            result = InferResult(entry.index, self._decode(entry.items, call.replica_id))
        except Exception as failure:  # noqa: BLE001 # adapters raise what they like; it is this item's
            result = InferResult(entry.index, None, failure)
        self._put(result)

    def next_result(self) -> InferResult | None:
        """Return the next result that is to be given out; None where none is ready."""
        if not self._ready:
            return None
        self._next_out += 1
        return self._ready.popleft()

    def _put(self, result: InferResult) -> None:
        if not self._ordered:
            self._ready.append(result)
            return
        self._early[result.index] = result
        # What is ready counts from the first index that is neither out nor ready.
        following = self._next_out + len(self._ready)
        while following in self._early:
            self._ready.append(self._early.pop(following))
            following += 1
