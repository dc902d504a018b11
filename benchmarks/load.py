"""The loads: a direct call, and each way into Podbay. Each runs in a process of its own.

`python -m benchmarks.load CASE TARGET IN_FLIGHT REQUESTS …` prints one Sample as JSON.
"""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import json
import sys
from collections.abc import Awaitable, Callable

import grpc
import uvloop

from benchmarks.figures import Sample
from benchmarks.loops import concurrently, one_by_one
from podbay import AsyncClient, Client
from podbay.v1 import inference_router_service_pb2 as pb
from podbay.v1 import inference_router_service_pb2_grpc as rpc

BODY = {"text": "Open the pod bay doors, Hal!"}
PIECES = 50


def direct(address: str, _in_flight: int, requests: int) -> Sample:
    """A keep-alive HTTP call with the standard library, straight to the replica."""
    connection = http.client.HTTPConnection(address)
    body = json.dumps(BODY)

    def call() -> int:
        connection.request("POST", "/echo", body, {"Content-Type": "application/json"})
        json.loads(connection.getresponse().read())
        return 1

    return one_by_one(call, requests)


def sync_infer(target: str, _in_flight: int, requests: int) -> Sample:
    """The sync client's infer, one call at a time."""
    session_id, token = target.split()
    with (
        Client() as client,
        client.inferencesessions.client(session_id, token, endpoint="echo") as session,
    ):
        return one_by_one(lambda: len(session.infer(BODY)), requests)


async def _async_session(
    target: str, endpoint: str, use: Callable[..., Awaitable[Sample]]
) -> Sample:
    session_id, token = target.split()
    async with AsyncClient() as client:
        session = client.inferencesessions.client(session_id, token, endpoint=endpoint)
        async with session:
            return await use(session)


async def async_infer(target: str, in_flight: int, requests: int) -> Sample:
    """The async client's infer: all calls share one Exchange stream."""

    async def use(session: object) -> Sample:
        async def call() -> int:
            return len(await session.infer(BODY))  # type: ignore[attr-defined] # typed by podbay

        return await concurrently(call, in_flight, requests=requests)

    return await _async_session(target, "echo", use)


async def async_pieces(target: str, in_flight: int, requests: int) -> Sample:
    """The async client's stream: answers of 50 server-sent events."""

    async def use(session: object) -> Sample:
        async def call() -> int:
            count = 0
            async for _ in session.stream({"n": PIECES}):  # type: ignore[attr-defined] # as above
                count += 1
            return count

        return await concurrently(call, in_flight, requests=requests)

    return await _async_session(target, "pieces", use)


async def unary(target: str, in_flight: int, requests: int) -> Sample:
    """A plain gRPC stub calling Infer, as other languages would."""
    address, session_id, token = target.split()
    async with grpc.aio.insecure_channel(address) as channel:
        stub: rpc.InferenceRouterServiceAsyncStub = rpc.InferenceRouterServiceStub(channel)
        metadata = (("authorization", f"Bearer {token}"),)
        request = pb.InferRequest(
            session_id=session_id, endpoint="echo", json=json.dumps(BODY).encode()
        )

        async def call() -> int:
            return len((await stub.Infer(request, metadata=metadata)).items)

        return await concurrently(call, in_flight, requests=requests)


CASES = {case.__name__: case for case in (direct, sync_infer, async_infer, async_pieces, unary)}


def main() -> None:
    name, target, in_flight, requests = sys.argv[1:]
    case = CASES[name]
    if asyncio.iscoroutinefunction(case):
        sample = uvloop.run(case(target, int(in_flight), int(requests)))
    else:
        sample = case(target, int(in_flight), int(requests))
    print(json.dumps(dataclasses.asdict(sample)))


if __name__ == "__main__":
    main()
