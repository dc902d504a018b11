"""The asynchronous client beside routers that end their streams while it writes."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import grpc

from podbay import AsyncClient
from podbay.v1 import inference_router_service_pb2 as pb
from podbay.v1.inference_router_service_pb2_grpc import (
    InferenceRouterServiceServicer,
    add_InferenceRouterServiceServicer_to_server,
)
from tests.support.router_fakes import FakeSessionManager
from tests.support.router_process import registry_of

CALLS = 1500


class DrainingRouter(InferenceRouterServiceServicer):
    """Answers the calls of two messages of each stream, and ends it well."""

    def __init__(self) -> None:
        self.streams = 0

    async def Exchange(self, request_iterator: object, context: Any) -> None:
        self.streams += 1
        await context.send_initial_metadata((("podbay-accepted", "1"),))
        for _ in range(2):
            message = await context.read()
            if message is grpc.aio.EOF:
                return
            answer = pb.ExchangeResponse()
            for call in message.calls:
                answer.results.add(id=call.id, done=True).items.add(json=call.json)
            await context.write(answer)
        await context.write(pb.ExchangeResponse(draining=True))


class _At(NamedTuple):
    address: str


async def test_no_call_is_lost_to_a_stream_that_ends_well_while_it_is_written_to() -> None:
    server = grpc.aio.server()
    router = DrainingRouter()
    add_InferenceRouterServiceServicer_to_server(router, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    manager = FakeSessionManager()
    registry = registry_of(_At(f"127.0.0.1:{port}"), manager)  # type: ignore[arg-type] # its address
    registry.start()
    numbers = iter(range(CALLS))
    try:
        async with (
            AsyncClient(registry.address, "api-token") as client,
            client.inferencesessions.client("s", manager.token("s"), endpoint="x") as calls,
        ):

            async def one_after_another() -> None:
                for number in numbers:
                    assert await calls.infer(number) == [number]

            await asyncio.gather(*(one_after_another() for _ in range(16)))
    finally:
        registry.stop()
        await server.stop(None)
    assert router.streams > 20
