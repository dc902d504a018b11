"""Mixed calls at a steady rate over many sessions, and what became of each."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import grpc
from google.rpc import error_details_pb2, status_pb2

from podbay import AsyncClient, Client, PodbayError
from podbay.v1 import inference_router_service_pb2 as wire
from podbay.v1.inference_router_service_pb2_grpc import InferenceRouterServiceStub

__all__ = ["Done", "MixedCalls", "Target"]

_TIMEOUT = 30.0
_PIECES = 20
_THREADS = 16
# What the client sends again by itself, too.
_SENT_AGAIN = frozenset({"ROUTER_DRAINING", "ROUTER_NOT_SYNCED", "SERVICE_STOPPING"})
_AGAIN_SECONDS = 0.1
# Without a reason of the catalogue: of a connection that broke.
_LOST = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL})
_FILE = b"\x00\xff file " * 200
_UPLOAD = {
    "endpoint": "upload",
    "outputSchema": {"arrowSchema": ""},
    "inputPipeline": [{"kind": "FileUpload", "configuration": {"field": "$.data"}}],
}


@dataclass(frozen=True)
class Target:
    """A session that is called."""

    session: str
    token: str


@dataclass(frozen=True)
class Done:
    """A call that has ended.

    Attributes:
        kind: How it was made.
        session: The session.
        began: When, by the monotonic clock, in seconds.
        ended: Likewise.
        reason: Why it failed; empty where it was answered rightly.
        message: Why, for people.
        not_started: Whether no replica has seen it.
    """

    kind: str
    session: str
    began: float
    ended: float
    reason: str = ""
    message: str = ""
    not_started: bool = False


class WrongAnswerError(Exception):
    """An answer is not what was asked for."""


class MixedCalls:
    """Begins calls of all kinds, one every so often, whether or not those before have ended.

    Use it as a context manager: at its end all calls have ended.

    Args:
        sync: A client for the calls of threads.
        client: A client for the others.
        router: The router's address, for calls without a client.
        targets: The sessions.
        rate: Calls a second.
        seed: Of what is called when.
    """

    def __init__(
        self,
        sync: Client,
        client: AsyncClient,
        router: str,
        targets: Sequence[Target],
        rate: float,
        seed: int,
    ) -> None:
        self.done: list[Done] = []
        self.begun = 0
        self._random = random.Random(seed)
        self._targets = targets
        self._pause = 1.0 / rate
        self._threads = ThreadPoolExecutor(_THREADS)
        self._channel = grpc.aio.insecure_channel(router)
        self._stub: Any = InferenceRouterServiceStub(self._channel)
        make = client.inferencesessions.client
        self._echo = {t: make(t.session, t.token, endpoint="echo") for t in targets}
        self._pieces = {t: make(t.session, t.token, endpoint="pieces") for t in targets}
        self._upload = {t: make(t.session, t.token, interface=_UPLOAD) for t in targets}
        self._sync = {
            t: sync.inferencesessions.client(t.session, t.token, endpoint="echo") for t in targets
        }
        self._kinds: dict[str, Callable[[Target, int], Awaitable[None]]] = {
            "infer": self._infer,
            "stream": self._stream,
            "upload": self._file,
            "threads": self._thread,
            "unary": self._unary,
        }
        self._running: set[asyncio.Task[None]] = set()
        self._pacer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._pacer = asyncio.create_task(self._pace())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pacer is not None:
            self._pacer.cancel()
            await asyncio.gather(self._pacer, return_exceptions=True)
        await asyncio.gather(*self._running)
        await self._channel.close()
        for clients in (self._echo, self._pieces, self._upload):
            for client in clients.values():
                await client.close()
        for one in self._sync.values():
            one.close()
        self._threads.shutdown()

    async def _pace(self) -> None:
        following = time.monotonic()
        while True:
            kind = self._random.choice(list(self._kinds))
            task = asyncio.create_task(self._call(kind, self._random.choice(self._targets)))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            following += self._pause
            await asyncio.sleep(max(0.0, following - time.monotonic()))

    async def _call(self, kind: str, target: Target) -> None:
        self.begun += 1
        number, began = self.begun, time.monotonic()
        reason, message, not_started = "", "", False
        try:
            await self._kinds[kind](target, number)
        except PodbayError as error:
            reason, message, not_started = error.reason, error.message, error.not_started
        except grpc.aio.AioRpcError as error:
            (reason, not_started), message = _reason_of(error), str(error.details())
        except WrongAnswerError as error:
            reason, message = "WRONG_ANSWER", str(error)
        self.done.append(
            Done(kind, target.session, began, time.monotonic(), reason, message, not_started)
        )

    async def _infer(self, target: Target, number: int) -> None:
        body = {"number": number}
        _same(await self._echo[target].infer(body, timeout=_TIMEOUT), [body])

    async def _stream(self, target: Target, number: int) -> None:
        items = [
            item async for item in self._pieces[target].stream({"n": _PIECES}, timeout=_TIMEOUT)
        ]
        _same(len(items), _PIECES)

    async def _file(self, target: Target, number: int) -> None:
        item = {"data": base64.b64encode(_FILE).decode()}
        (answer,) = await self._upload[target].infer(item, timeout=_TIMEOUT)
        # The file, and the form around it.
        _same(answer["bytes"] > len(_FILE), True)

    async def _thread(self, target: Target, number: int) -> None:
        body = {"number": number}
        call = self._sync[target].infer
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._threads, lambda: call(body, timeout=_TIMEOUT))
        _same(answer, [body])

    async def _unary(self, target: Target, number: int) -> None:
        """Call as a program without the client does: what was not begun is sent again."""
        body = json.dumps({"number": number}).encode()
        until = time.monotonic() + _TIMEOUT
        while True:
            try:
                answer = await self._stub.Infer(
                    wire.InferRequest(session_id=target.session, endpoint="echo", json=body),
                    metadata=(("authorization", f"Bearer {target.token}"),),
                    timeout=max(0.001, until - time.monotonic()),
                    wait_for_ready=True,
                )
            except grpc.aio.AioRpcError as error:
                reason, not_started = _reason_of(error)
                if not (not_started and reason in _SENT_AGAIN) or time.monotonic() > until:
                    raise
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                _same([item.json for item in answer.items], [body])
                return


def _same(found: object, expected: object) -> None:
    if found != expected:
        raise WrongAnswerError(f"{found!r} instead of {expected!r}")


def _reason_of(error: grpc.aio.AioRpcError) -> tuple[str, bool]:
    """Return the reason of the catalogue, and whether no replica has seen the call.

    Of a connection that broke it is the reason that the client has for it.
    """
    # Typed as if it could not be iterated over; dict() takes it for a mapping of names.
    pairs: Any = error.trailing_metadata()
    details = {key: value for key, value in pairs or ()}.get("grpc-status-details-bin")  # noqa: C416
    if isinstance(details, bytes):
        info = error_details_pb2.ErrorInfo()
        for detail in status_pb2.Status.FromString(details).details:
            detail.Unpack(info)
        return info.reason, info.metadata.get("notStarted") == "true"
    return "CONNECTION_LOST" if error.code() in _LOST else error.code().name, False
