"""What a mock's web server answers."""

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine

from podbay_kit.replica_server.answers import (
    JSON,
    UnserializableAnswerError,
    choose_framing,
    encode_answer,
)
from podbay_kit.replica_server.errors import MockFailedError
from podbay_kit.replica_server.exchange import Exchange, RefusedError
from podbay_kit.replica_server.pieces import Pieces, is_plain, pieces_of
from podbay_kit.replica_server.threads import ThreadPool

__all__ = ["MAX_BODY_BYTES", "ReplicaApp", "stopping"]

MAX_BODY_BYTES = 64 << 20
"""The most bytes of a request's body."""

READY_PATH = "/ready"

# An error travels in headers further on, whose room is small.
_LONGEST_DETAIL = 2000
_INVALID_INPUT = (ValueError, KeyError, TypeError)

_logger = logging.getLogger("podbay.replica")


class ReplicaApp:
    """Offers a mock over HTTP: `GET /ready` and `POST /{endpoint}`.

    Args:
        mock: The built mock: an object with `infer(endpoint, request)`. Its attribute
            `concurrency` says where a plain `infer` runs: `"threads"` (the default; it may block,
            and several calls run at once) or `"inline"` (in the event loop; for what is instant).
            A coroutine function or an asynchronous generator always runs in the loop.
        pool: The threads for what blocks.
        logger: Where it is written what goes wrong; "podbay.replica" unless given.

    Raises:
        MockFailedError: If the mock's `concurrency` is neither, or it has no `infer`.
    """

    def __init__(
        self,
        mock: object,
        *,
        pool: ThreadPool,
        logger: logging.Logger | None = None,
    ) -> None:
        self._logger = logger or _logger
        concurrency = getattr(mock, "concurrency", "threads")
        kind = type(mock)
        if concurrency not in {"threads", "inline"}:
            raise MockFailedError(
                f"{kind.__module__}.{kind.__qualname__}.concurrency is {concurrency!r}; "
                "it can be 'threads' or 'inline'"
            )
        infer = getattr(mock, "infer", None)
        if not callable(infer):
            raise MockFailedError(f"an object of type {kind.__name__} has no method infer")
        self._infer: Callable[[str, object], object] = infer
        self._name = f"{kind.__module__}.{kind.__qualname__}.infer"
        self._pool = pool
        self._inline = concurrency == "inline"
        self._in_loop = (
            self._inline
            or inspect.iscoroutinefunction(self._infer)
            or inspect.isasyncgenfunction(self._infer)
        )

    def handle(self, exchange: Exchange) -> Coroutine[None, None, None] | None:
        """Answer a request, or give the work that is left to do for it."""
        try:
            work = self._begin(exchange)
        except RefusedError as refused:
            exchange.refuse(refused)
            return None
        return None if work is None else self._work(exchange, work)

    def _begin(self, exchange: Exchange) -> Coroutine[None, None, None] | None:
        if exchange.method != "POST":
            self._answer_other(exchange)
            return None
        request = exchange.read_json()
        endpoint = exchange.path.removeprefix("/")
        if not self._in_loop:
            return self._answer(exchange, endpoint, request)
        try:
            result = self._infer(endpoint, request)
            whole = encode_answer(result) if is_plain(result) else None
        except (Exception, SystemExit) as error:
            raise self._refusal(error) from error
        if whole is None:
            return self._finish(exchange, result)
        exchange.answer(200, *whole)
        return None

    def _answer_other(self, exchange: Exchange) -> None:
        if exchange.path == READY_PATH and exchange.method in {"GET", "HEAD"}:
            exchange.answer(200, JSON, b'{"ready":true}')
            return
        allowed = b"GET, HEAD, POST" if exchange.path == READY_PATH else b"POST"
        raise RefusedError(
            405,
            f"{exchange.method} is not answered here; inference is POST /{{endpoint}}, "
            f"readiness is GET {READY_PATH}",
            headers=[(b"allow", allowed)],
        )

    async def _work(self, exchange: Exchange, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except RefusedError as refused:
            exchange.refuse(refused)
        except asyncio.CancelledError:
            # The client has left, and hears nothing; or the server's grace is over.
            if not exchange.started:
                exchange.refuse(stopping())
            raise

    async def _answer(self, exchange: Exchange, endpoint: str, request: object) -> None:
        try:
            result = await self._pool.run(self._infer, endpoint, request)
        except (Exception, SystemExit) as error:
            raise self._refusal(error) from error
        await self._finish(exchange, result)

    async def _finish(self, exchange: Exchange, result: object) -> None:
        """Wait for what is still to come, and send it."""
        try:
            if inspect.isawaitable(result):
                result = await result
            pieces = pieces_of(result, None if self._inline else self._pool)
            if pieces is None:
                exchange.answer(200, *encode_answer(result))
            else:
                await _send_pieces(exchange, pieces)
        except (Exception, SystemExit) as error:
            refusal = self._refusal(error)
            if not exchange.started:
                raise refusal from error
            # The status is out. An answer without its end is what tells the client, so it is
            # left there, and the connection is closed.

    def _refusal(self, error: BaseException) -> RefusedError:
        """Say what a mock's exception means to the client, and log it."""
        kind = type(error).__name__
        if isinstance(error, UnserializableAnswerError):
            self._logger.error("%s: %s", self._name, error)
            return RefusedError(500, f"{self._name}: {error}")
        if isinstance(error, _INVALID_INPUT):
            self._logger.warning("%s refused a request", self._name, exc_info=error)
            return RefusedError(422, f"{kind}: {error}"[:_LONGEST_DETAIL])
        self._logger.error("%s failed", self._name, exc_info=error)
        return RefusedError(500, f"{kind} in {self._name}; see the replica's log")


async def _send_pieces(exchange: Exchange, pieces: Pieces) -> None:
    framing = choose_framing(exchange.accept)
    no_cache = ((b"cache-control", b"no-cache"),)
    try:
        async for item in pieces:
            chunk = framing.frame(item)
            if not exchange.started:
                # Not before the first piece: what fails until then still has a status.
                exchange.start(200, framing.media_type, no_cache)
            await exchange.write(chunk)
    finally:
        await pieces.aclose()
    if not exchange.started:
        exchange.start(200, framing.media_type, no_cache)
    await exchange.write(framing.end, last=True)


def stopping() -> RefusedError:
    """Give the refusal of a request that outlives the grace of a stop."""
    return RefusedError(
        503,
        "the replica is stopping and its grace is over; send the request to another replica",
        reason="SERVICE_STOPPING",
        close=True,
    )
