"""Exchange streams driven with calls that are encoded beforehand, so that the router is the limit.

`python -m benchmarks.load_exchange "ROUTER SESSION TOKEN" IN_FLIGHT REQUESTS [STREAMS]` prints
one Sample as JSON; both numbers are of each stream, each of which has a connection of its own. A
call's bytes are kept and sent again under the same id once it is answered; what is answered
in one message is sent again in one message, as Podbay's client does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from typing import Any

import grpc
import uvloop

from benchmarks.figures import Sample, percentile
from benchmarks.load import BODY
from podbay.v1 import inference_router_service_pb2 as pb

_METHOD = "/podbay.v1.InferenceRouterService/Exchange"
WARM_UP = 1000
"""Calls of each stream that are not counted."""


def _encoded(call_id: int, body: bytes) -> bytes:
    call = pb.Call(id=call_id, endpoint="echo", json=body)
    call.timeout.seconds = 60
    return pb.ExchangeRequest(calls=[call]).SerializeToString()


async def _drive(stream: Any, in_flight: int, requests: int) -> Sample:
    # Messages join by joining their bytes: that is how protobuf merges repeated fields.
    calls = [_encoded(at, json.dumps(BODY).encode()) for at in range(in_flight)]
    clock = time.perf_counter
    sent = [clock()] * in_flight
    latencies: list[float] = []
    await stream.write(b"".join(calls))
    done, messages, answered = 0, 0, pb.ExchangeResponse.FromString
    begun, cpu = clock(), time.process_time()
    while done < WARM_UP + requests:
        results = answered(await stream.read()).results
        now = clock()
        messages += 1
        ids = [result.id for result in results]
        for result in results:
            if result.HasField("error") or not result.done:
                raise ValueError(f"a call failed: {result}")
            latencies.append(now - sent[result.id])
            sent[result.id] = now
        before, done = done, done + len(ids)
        if before < WARM_UP <= done:
            latencies.clear()
            begun, cpu = now, time.process_time()
            counted, messages = done, 0
        await stream.write(b"".join([calls[at] for at in ids]))
    return Sample(
        requests=done - counted,
        seconds=clock() - begun,
        p50=percentile(latencies, 0.5),
        p99=percentile(latencies, 0.99),
        items=messages,
        load_cpu=time.process_time() - cpu,
    )


async def _stream(target: str, in_flight: int, requests: int, number: int) -> Sample:
    address, _, token = target.split()
    # Channels with equal options would share a connection.
    async with grpc.aio.insecure_channel(address, options=[("podbay.stream", number)]) as channel:
        stream: Any = channel.stream_stream(_METHOD)(
            metadata=(("authorization", f"Bearer {token}"),)
        )
        try:
            return await _drive(stream, in_flight, requests)
        finally:
            stream.cancel()


async def load(target: str, in_flight: int, requests: int, streams: int = 1) -> Sample:
    """Drive streams, and return what they did together."""
    runs = (_stream(target, in_flight, requests, number) for number in range(streams))
    samples = await asyncio.gather(*runs)
    return Sample(
        requests=sum(sample.requests for sample in samples),
        seconds=max(sample.seconds for sample in samples),
        p50=max(sample.p50 for sample in samples),
        p99=max(sample.p99 for sample in samples),
        items=sum(sample.items for sample in samples),
        load_cpu=max(sample.load_cpu for sample in samples),
    )


if __name__ == "__main__":
    sample = uvloop.run(load(sys.argv[1], *map(int, sys.argv[2:])))
    print(json.dumps(dataclasses.asdict(sample)))
