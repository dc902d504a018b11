"""Every RPC of a service, found by reflection, called with what nobody should send."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from benchmarks.fuzz.messages import broken_bytes, changed_message, random_message
from podbay.v1 import errors_pb2

__all__ = ["Caller", "Findings", "Target", "reflected"]

_REASONS = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()}  # noqa: SIM118 # an enum wrapper is no mapping
_DEFECTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
# What gRPC itself answers, without a reason: what was too large, and what the caller gave up.
_WITHOUT_REASON = (
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
# What grpc.aio says in the client where a stream ended while it was written to.
_OWN_TEXT = "Internal error from Core"
_UNARY_SECONDS = 30.0
_STREAM_SECONDS = 0.3
_KEPT_PROBLEMS = 20
_UNREAD = {"grpc.http2.lookahead_bytes": 0}


@dataclass
class Target:
    """A service that runs.

    Attributes:
        name: The service's full name.
        address: Where it listens.
        methods: Its methods.
    """

    name: str
    address: str
    methods: list[MethodDescriptor]


@dataclass
class Findings:
    """What a service answered.

    Attributes:
        codes: How often which code came.
        methods: How often each method was called.
        problems: Answers that must not be, and how often each came.
    """

    codes: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)

    def note(self, method: str, error: grpc.aio.AioRpcError | None, *, streams: bool) -> None:
        """Take the end of a call."""
        self.methods[method] += 1
        code = grpc.StatusCode.OK if error is None else error.code()
        self.codes[code.name] += 1
        if error is None:
            return
        reason = _reason(error)
        if error.details() == _OWN_TEXT:
            return  # this process could not write to a stream that had ended
        if code in _DEFECTS:
            self._problem(f"{method}: {code.name} {reason}: {(error.details() or '')[:200]}")
        elif reason is None and code not in _WITHOUT_REASON:
            self._problem(
                f"{method}: {code.name} without a reason: {(error.details() or '')[:200]}"
            )
        elif reason is not None and reason not in _REASONS:
            self._problem(f"{method}: {reason} is not in the catalogue")
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED and reason is None and not streams:
            self._problem(f"{method}: no answer in {_UNARY_SECONDS:g} s")

    def _problem(self, text: str) -> None:
        if text in self.problems or len(self.problems) < _KEPT_PROBLEMS:
            self.problems[text] += 1


def reflected(address: str) -> list[Target]:
    """Ask a server which services it has; those of gRPC itself are left out."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        return [
            Target(name, address, list(pool.FindServiceByName(name).methods))
            for name in database.get_services()
            if not name.startswith("grpc.")
        ]


class Caller:
    """Calls methods at random, and notes what comes back.

    Args:
        target: The service.
        tokens: Tokens that let a call pass; others are made up.
        known: Ids of what exists and may be harmed.
        templates: Requests that would pass, in bytes, by the full names of their types.
        seed: Where chance starts.
    """

    def __init__(
        self,
        target: Target,
        tokens: Sequence[str],
        known: Sequence[str],
        templates: Mapping[str, bytes],
        seed: int,
    ) -> None:
        self.findings = Findings()
        self.target = target
        self._tokens = tokens
        self._known = [*known]
        self._templates = templates
        self._rng = random.Random(seed)
        self._next: list[MethodDescriptor] = []

    async def run(self, until: float, least: int, in_flight: int, pause: float) -> None:
        """Call until a time of the loop's clock, and each method at least some times.

        Args:
            until: When it may end.
            least: How often each method is called at least.
            in_flight: How many call at once.
            pause: Seconds between two calls of each.
        """
        options = [("grpc.max_receive_message_length", -1), *_UNREAD.items()]
        async with grpc.aio.insecure_channel(self.target.address, options=options) as channel:
            await asyncio.gather(
                *(self._calls(channel, until, least, pause) for _ in range(in_flight))
            )

    async def _calls(
        self, channel: grpc.aio.Channel, until: float, least: int, pause: float
    ) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < until or self._lacking(least):
            # All methods in turn, so that each is called as often as the others.
            if not self._next:
                self._next = self._rng.sample(self.target.methods, len(self.target.methods))
            method = self._next.pop()
            error = await self._call(channel, method)
            streams = method.client_streaming or method.server_streaming
            self.findings.note(method.full_name, error, streams=streams)
            await asyncio.sleep(pause)

    def _lacking(self, least: int) -> bool:
        """Say whether a method was not called as often as it shall be."""
        called = self.findings.methods
        return any(called[method.full_name] < least for method in self.target.methods)

    async def _call(
        self, channel: grpc.aio.Channel, method: MethodDescriptor
    ) -> grpc.aio.AioRpcError | None:
        path = f"/{self.target.name}/{method.name}"
        metadata = self._metadata()
        payload = self._payload(method)
        try:
            if not method.client_streaming and not method.server_streaming:
                unary: Any = channel.unary_unary(path)
                self._learn(method, await unary(payload, metadata=metadata, timeout=_UNARY_SECONDS))
                return None
            if method.client_streaming and method.server_streaming:
                both: Any = channel.stream_stream(path)
                call = both(self._stream(method), metadata=metadata, timeout=_STREAM_SECONDS)
            elif method.server_streaming:
                out: Any = channel.unary_stream(path)
                call = out(payload, metadata=metadata, timeout=_STREAM_SECONDS)
            else:
                into: Any = channel.stream_unary(path)
                await into(self._stream(method), metadata=metadata, timeout=_UNARY_SECONDS)
                return None
            await self._read_a_little(call)
        except grpc.aio.AioRpcError as error:
            return error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # The call was cancelled, not this task: grpc.aio does that where the service has ended
            # a stream to which requests were still to be sent.
        return None

    async def _read_a_little(self, call: Any) -> None:
        """Read a few answers, or none at all while the stream goes on; then leave."""
        try:
            for _ in range(self._rng.randrange(4)):
                if await call.read() is grpc.aio.EOF:
                    break
            else:
                await asyncio.sleep(self._rng.random() * _STREAM_SECONDS)
        finally:
            call.cancel()

    async def _stream(self, method: MethodDescriptor) -> AsyncIterator[bytes]:
        for _ in range(self._rng.randrange(4)):
            yield self._payload(method)
        if self._rng.random() < 0.3:
            await asyncio.sleep(_STREAM_SECONDS)  # half open: neither a message nor an end

    def _payload(self, method: MethodDescriptor) -> bytes:
        wire = self._templates.get(method.input_type.full_name)
        if wire is not None and self._rng.random() < 0.7:
            message = changed_message(method.input_type, wire, self._rng, self._known)
        else:
            message = random_message(method.input_type, self._rng, self._known)
        if self._rng.random() < 0.15:
            return broken_bytes(message, self._rng)
        return message.SerializeToString()

    def _metadata(self) -> list[tuple[str, str | bytes]]:
        rng = self._rng
        token = rng.choice(self._tokens)
        header: list[tuple[str, str | bytes]] = [("authorization", f"Bearer {token}")]
        chance = rng.random()
        if chance < 0.6:
            return header
        wrong = ("", "Bearer", "Basic YTpi", f"Bearer {token[:-3]}AAA", "Bearer " + "x" * 3000)
        others: tuple[list[tuple[str, str | bytes]], ...] = (
            [],
            [("authorization", rng.choice(wrong))],
            [*header, *header],
            [*header, ("x-much", "y" * rng.choice((4_000, 9_000, 15_000, 40_000)))],
            [*header, *((f"x-{n}", "z") for n in range(rng.choice((50, 500))))],
            [*header, ("traceparent", "00-zz-" + "0" * 50), ("x-bin", rng.randbytes(500))],
            [*header, ("grpc-accept-encoding", "none, of, these")],
        )
        return rng.choice(others)

    def _learn(self, method: MethodDescriptor, answer: bytes) -> None:
        """Keep the ids of what a call has made, so that later ones reach it."""
        if method.name.startswith("Create") and len(self._known) < 40:
            made: Message = message_factory.GetMessageClass(method.output_type).FromString(answer)
            for inner, value in made.ListFields():
                if inner.message_type is not None and hasattr(value, "id"):
                    self._known.append(value.id)


def _reason(error: grpc.aio.AioRpcError) -> str | None:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            info = error_details_pb2.ErrorInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return str(info.reason)
    return None
