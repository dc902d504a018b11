"""The sinks of calls that have an RPC of their own."""

import asyncio
from typing import Final

from podbay.v1.errors_pb2 import CallError
from podbay_inference_router.calls import Call
from podbay_inference_router.framing import Piece

__all__ = ["PieceSink", "WholeSink"]

_HIGH_BYTES: Final = 1 << 20


class WholeSink:
    """Waits for the whole answer."""

    def __init__(self) -> None:
        self._result: asyncio.Future[tuple[list[Piece], CallError | None]] = (
            asyncio.get_running_loop().create_future()
        )

    def holds(self, call: Call) -> bool:  # noqa: ARG002 # the interface of sinks
        """Never: the answer is wanted whole."""
        return False

    def on_pieces(self, call: Call, pieces: list[Piece]) -> None:
        """Never called: the call is not streamed."""
        raise RuntimeError(f"call {call.call_id} got {len(pieces)} pieces that it did not ask for")

    def on_done(self, call: Call, pieces: list[Piece], error: CallError | None) -> None:  # noqa: ARG002 # the interface of sinks
        """Take the end."""
        if not self._result.done():
            self._result.set_result((pieces, error))

    async def result(self) -> tuple[list[Piece], CallError | None]:
        """Return the items, or the failure."""
        return await self._result


class PieceSink:
    """Hands pieces out as they come, and makes the replica wait for a slow caller."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._size = 0
        self._wake = asyncio.Event()
        self._done = False
        self._call: Call | None = None
        self.error: CallError | None = None
        """Why the call failed, once no more pieces come."""

    def holds(self, call: Call) -> bool:  # noqa: ARG002 # the interface of sinks
        """Whether more has come than the caller took."""
        return self._size > _HIGH_BYTES

    def on_pieces(self, call: Call, pieces: list[Piece]) -> None:
        """Keep pieces for the caller."""
        self._call = call
        self._pieces += pieces
        self._size += sum(len(text) for text, _ in pieces)
        self._wake.set()

    def on_done(self, call: Call, pieces: list[Piece], error: CallError | None) -> None:
        """Take the end."""
        self.on_pieces(call, pieces)
        self.error = error
        self._done = True

    async def next(self) -> list[Piece]:
        """Return the pieces that have come since the last time, in order; none at the end."""
        while not self._pieces and not self._done:
            self._wake.clear()
            await self._wake.wait()
        pieces, self._pieces = self._pieces, []
        was_held, self._size = self._size > _HIGH_BYTES, 0
        if was_held and self._call is not None:
            self._call.resume()
        return pieces
