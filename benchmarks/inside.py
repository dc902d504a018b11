"""Where the router's own microseconds go: the parts of a call, each timed alone, without sockets.

`python -m benchmarks.inside` prints microseconds a call. The parts are the router's real ones, from
the bytes of a gRPC message to those written to a replica and back; only transports are stand-ins.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import uvloop

from benchmarks.load import BODY
from podbay.v1 import inference_router_service_pb2 as pb
from podbay.v1.session_manager_service_pb2 import (
    ROUTE_STATE_OPEN,
    Route,
    RouteEndpoint,
    WatchRoutesResponse,
)
from podbay_inference_router.dispatch import Dispatcher
from podbay_inference_router.exchange import ExchangeStream
from podbay_inference_router.meters import Meters
from podbay_inference_router.settings import Settings
from podbay_inference_router.table import RouteTable
from podbay_inference_router.tokens import Claims
from podbay_inference_router.tracing import CallSpans
from podbay_inference_router.upstream import ConnectionPools

__all__ = ["PARTS", "parts"]

PARTS = (
    "decode the message",
    "check each call, choose its replica, write its request",
    "read each answer, end the call, add its result",
    "encode the message",
)


class _Transport:
    """A connection to a replica that keeps who wrote to it."""

    def __init__(self, protocol: Any, written: list[Any]) -> None:
        self._protocol = protocol
        self._written = written

    def write(self, data: bytes) -> None:
        self._written.append(self._protocol)

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        pass

    close = abort


class _Loop:
    """The event loop, but for connections, which go nowhere."""

    def __init__(self, written: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        self.time, self.call_later = loop.time, loop.call_later
        self._written = written

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int) -> None:
        protocol = factory()
        protocol.connection_made(_Transport(protocol, self._written))


def _table(pools: ConnectionPools, settings: Settings) -> RouteTable:
    table = RouteTable(pools.connect, settings)
    endpoint = RouteEndpoint(replica_id="r" * 32, host="127.0.0.1", port=9)
    route = Route(session_id="s", state=ROUTE_STATE_OPEN, endpoints=[endpoint])
    table.apply(WatchRoutesResponse(snapshot=True, routes=[route]), 0.0)
    return table


def _message(calls: int, body: bytes) -> bytes:
    message = pb.ExchangeRequest()
    for at in range(calls):
        message.calls.add(id=1000 + at, endpoint="echo", json=body).timeout.seconds = 60
    return message.SerializeToString()


async def _measure(
    calls: int, rounds: int, meters: Meters | None, spans: CallSpans | None
) -> list[list[float]]:
    settings, written = Settings(), list[Any]()
    loop: Any = _Loop(written)
    pools = ConnectionPools(settings, loop)
    dispatcher = Dispatcher(
        _table(pools, settings), settings, loop, random.random, meters=meters, spans=spans
    )
    stream = ExchangeStream(dispatcher, Claims("s", "a", 0, float("inf")))
    body = json.dumps(BODY).encode()
    message = _message(calls, body)
    answer = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    clock = time.perf_counter
    found: list[list[float]] = [[] for _ in PARTS]

    async def take(batch: pb.ExchangeResponse) -> None:
        began = clock()
        batch.SerializeToString()
        found[3].append(clock() - began)

    writer = asyncio.create_task(stream.write_to(take))
    for number in range(rounds + 1):
        marks = [clock()]
        received = pb.ExchangeRequest.FromString(message)
        marks.append(clock())
        stream.accept(received)
        marks.append(clock())
        for _ in range(0 if number else 20):  # the first round opens the connections
            await asyncio.sleep(0)
        begin = clock()
        for connection in written:
            connection.data_received(answer)
        end = clock()
        written.clear()
        for _ in range(3):  # the writer's turn, and that of the connections' sweep
            await asyncio.sleep(0)
        if number:
            found[0].append(marks[1] - marks[0])
            found[1].append(marks[2] - marks[1])
            found[2].append(end - begin)
    stream.half_close()
    await writer
    await pools.close()
    return found


def parts(
    calls: int = 32,
    rounds: int = 3000,
    meters: Meters | None = None,
    spans: CallSpans | None = None,
) -> dict[str, float]:
    """Return the median seconds a call of each part.

    Args:
        calls: How many calls a message carries.
        rounds: How many messages.
        meters: Counts the calls, as where metrics are shown; None as where they are not.
        spans: Traces the calls; None where they are not traced.
    """
    found = uvloop.run(_measure(calls, rounds, meters, spans))
    return {
        name: statistics.median(values) / calls for name, values in zip(PARTS, found, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inside", description=__doc__)
    parser.add_argument("--calls", type=int, default=32, help="a message (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3000, help="(default: %(default)s)")
    arguments = parser.parse_args()
    found = parts(arguments.calls, arguments.rounds)
    for name, seconds in found.items():
        print(f"{seconds * 1e6:7.2f} µs  {name}")
    print(f"{sum(found.values()) * 1e6:7.2f} µs  in all")


if __name__ == "__main__":
    main()
