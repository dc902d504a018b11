"""A router without replicas: it answers calls as a test says.

It runs on gRPC's synchronous API, so that it can live beside an asyncio client in one process.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from podbay.v1 import errors_pb2, inference_router_service_pb2_grpc
from podbay.v1 import inference_router_service_pb2 as wire

__all__ = ["FakeRouter", "FakeStream", "abort_with", "reason_number"]


def reason_number(name: str) -> errors_pb2.ErrorReason.ValueType:
    """Return the number of a reason."""
    return errors_pb2.ErrorReason.Value(f"ERROR_REASON_{name}")


def abort_with(
    context: grpc.ServicerContext,
    code: grpc.StatusCode,
    reason: str,
    message: str,
    metadata: dict[str, str] | None = None,
) -> None:
    """End an RPC as the services do: with rich details."""
    info = any_pb2.Any()
    info.Pack(
        error_details_pb2.ErrorInfo(reason=reason, domain="podbay.dev", metadata=metadata or {})
    )
    status = status_pb2.Status(code=code.value[0], message=message, details=[info])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, message)


class FakeStream:
    """One Exchange stream, as the router sees it."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.calls: list[wire.Call] = []
        self.cancels: list[int] = []
        self.messages = 0
        self.half_closed = threading.Event()
        self.ended = threading.Event()
        self._out: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def send(self, response: wire.ExchangeResponse) -> None:
        """Send a message."""
        self._out.put(response)

    def answer(self, call_id: int, *items: bytes, done: bool = True) -> None:
        """Answer a call, or send a piece of its answer."""
        result = wire.CallResult(
            id=call_id, items=[wire.Item(json=i) for i in items], done=done, replica_id="r1"
        )
        self.send(wire.ExchangeResponse(results=[result]))

    def fail(self, call_id: int, reason: str, *, not_started: bool = False, **facts: Any) -> None:
        """Answer a call with an error."""
        error = errors_pb2.CallError(
            code=facts.pop("code", grpc.StatusCode.UNAVAILABLE.value[0]),
            reason=reason_number(reason),
            message=facts.pop("message", f"failed with {reason}"),
            not_started=not_started,
            **facts,
        )
        result = wire.CallResult(id=call_id, done=True, error=error)
        self.send(wire.ExchangeResponse(results=[result]))

    def drain(self) -> None:
        """Tell that the router is about to stop."""
        self.send(wire.ExchangeResponse(draining=True))

    def end(self, abort: Callable[[grpc.ServicerContext], None] | None = None) -> None:
        """End the stream, with a status where `abort` gives one."""
        self._out.put(abort or StopIteration)

    def lost(self) -> None:
        """Note that the client is gone."""
        self.ended.set()
        self.end()

    def responses(self, context: grpc.ServicerContext) -> Iterator[wire.ExchangeResponse]:
        """Yield what is to be sent."""
        while True:
            item = self._out.get()
            if item is StopIteration:
                return
            if callable(item):
                item(context)
                return
            yield item


def echo(stream: FakeStream, call: wire.Call) -> None:
    """Answer with the body."""
    stream.answer(call.id, call.json)


def silent(stream: FakeStream, call: wire.Call) -> None:
    """Do not answer."""


class FakeRouter(inference_router_service_pb2_grpc.InferenceRouterServiceServicer):
    """The router.

    Attributes:
        on_call: What it does with a call.
        on_open: What it does with a new stream, before it reads; may abort it.
        streams: All streams so far.
    """

    def __init__(self) -> None:
        self.on_call: Callable[[FakeStream, wire.Call], None] = echo
        self.on_cancel: Callable[[FakeStream, int], None] = lambda stream, call_id: stream.fail(
            call_id, "CANCELLED"
        )
        self.on_open: Callable[[FakeStream, grpc.ServicerContext], None] = lambda stream, context: (
            None
        )
        self.streams: list[FakeStream] = []
        self._server: grpc.Server | None = None
        self.port = 0

    @property
    def address(self) -> str:
        """Where it serves."""
        return f"127.0.0.1:{self.port}"

    @property
    def calls(self) -> list[wire.Call]:
        """All calls of all streams."""
        return [call for stream in self.streams for call in stream.calls]

    def start(self, port: int = 0) -> None:
        """Begin to serve."""
        server = grpc.server(ThreadPoolExecutor(64), options=[("grpc.so_reuseport", 0)])
        inference_router_service_pb2_grpc.add_InferenceRouterServiceServicer_to_server(self, server)
        self.port = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        self._server = server

    def stop(self) -> None:
        """Stop at once."""
        for stream in self.streams:
            stream.end()
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def Exchange(
        self,
        request_iterator: Iterator[wire.ExchangeRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[wire.ExchangeResponse]:
        """Serve one stream."""
        metadata = dict(context.invocation_metadata())
        stream = FakeStream(str(metadata.get("authorization", "")).removeprefix("Bearer "))
        self.streams.append(stream)
        context.add_callback(stream.lost)
        self.on_open(stream, context)
        context.send_initial_metadata((("podbay-accepted", "1"),))
        threading.Thread(target=self._read, args=(stream, request_iterator), daemon=True).start()
        yield from stream.responses(context)

    def Infer(self, request: wire.InferRequest, context: grpc.ServicerContext) -> Any:
        """Not what the client uses."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")

    def StreamInfer(self, request: wire.StreamInferRequest, context: grpc.ServicerContext) -> Any:
        """Not what the client uses."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")

    def _read(self, stream: FakeStream, requests: Iterator[wire.ExchangeRequest]) -> None:
        try:
            for request in requests:
                stream.messages += 1
                for call in request.calls:
                    stream.calls.append(call)
                    self.on_call(stream, call)
                for call_id in request.cancels:
                    stream.cancels.append(call_id)
                    self.on_cancel(stream, call_id)
            stream.half_closed.set()
            stream.end()
        except Exception:  # noqa: BLE001 # gRPC raises a bare Exception where the stream is gone
            stream.ended.set()
