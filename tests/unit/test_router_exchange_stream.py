"""How the results of many calls share messages, and what a slow client causes."""

import asyncio
from collections.abc import Awaitable, Callable

from podbay.v1.inference_router_service_pb2 import Call, ExchangeRequest, ExchangeResponse
from podbay_inference_router.exchange import ExchangeStream
from podbay_inference_router.tokens import Claims
from tests.support.eventually import eventually
from tests.support.router_fakes import route
from tests.support.router_table import FakeFlight, FakeRouter

MIB = 1 << 20


def make(calls: int, *, stream: bool) -> tuple[FakeRouter, ExchangeStream, list[FakeFlight]]:
    router = FakeRouter()
    router.apply(route("s", [1]))
    exchange = ExchangeStream(
        router.dispatcher, Claims("s", "acct", 1, 9000.0), lambda: router.wall
    )
    accept(exchange, *range(calls), stream=stream)
    return router, exchange, list(router.upstreams[0].flights)


def accept(exchange: ExchangeStream, *ids: int, stream: bool = False) -> None:
    exchange.accept(
        ExchangeRequest(calls=[Call(id=i, endpoint="x", json=b"{}", stream=stream) for i in ids])
    )


def begin(flight: FakeFlight) -> None:
    flight.connect()
    flight.call.on_head(200, "application/jsonl", "", "")


def finish(flight: FakeFlight) -> None:
    flight.end()
    flight.call.on_end()


def keep(messages: list[ExchangeResponse]) -> Callable[[ExchangeResponse], Awaitable[None]]:
    async def write(message: ExchangeResponse) -> None:
        messages.append(message)

    return write


async def test_what_is_queued_goes_into_one_message() -> None:
    _, exchange, flights = make(3, stream=False)
    for flight in flights:
        flight.answer(b"1")
    exchange.half_close()
    messages: list[ExchangeResponse] = []
    await exchange.write_to(keep(messages))
    assert len(messages) == 1
    assert [result.id for result in messages[0].results] == [0, 1, 2]


async def test_results_that_come_one_after_the_other_share_a_message() -> None:
    _, exchange, flights = make(3, stream=False)
    loop = asyncio.get_running_loop()
    # The second comes a turn of the loop later, when the writer has already seen the first.
    flights[0].answer(b"1")
    loop.call_soon(loop.call_soon, flights[1].answer, b"2")
    messages: list[ExchangeResponse] = []
    writer = asyncio.ensure_future(exchange.write_to(keep(messages)))
    await eventually(lambda: bool(messages), "a message is written")
    assert [result.id for result in messages[0].results] == [0, 1]
    flights[2].answer(b"3")
    exchange.half_close()
    await writer
    assert [result.id for result in messages[1].results] == [2]


async def test_the_results_of_a_busy_stream_do_not_wait_for_it_to_pause() -> None:
    _, exchange, flights = make(200, stream=False)
    loop = asyncio.get_running_loop()
    left = iter(flights)

    def answer_one_a_turn() -> None:
        flight = next(left, None)
        if flight is not None:
            flight.answer(b"1")
            loop.call_soon(answer_one_a_turn)

    answer_one_a_turn()
    exchange.half_close()
    messages: list[ExchangeResponse] = []
    await exchange.write_to(keep(messages))
    assert len(messages) >= 20
    assert sum(len(message.results) for message in messages) == 200


async def test_pieces_of_a_call_share_a_result() -> None:
    _, exchange, flights = make(1, stream=True)
    begin(flights[0])
    for number in range(3):
        flights[0].call.on_body(b"%d\n" % number)
    finish(flights[0])
    exchange.half_close()
    messages: list[ExchangeResponse] = []
    await exchange.write_to(keep(messages))
    (result,) = messages[0].results
    assert [item.json for item in result.items] == [b"0", b"1", b"2"]
    assert result.done
    assert result.replica_id == "s-r0"


async def test_a_slow_client_makes_all_replicas_wait_until_it_has_read() -> None:
    _, exchange, flights = make(2, stream=True)
    for flight in flights:
        begin(flight)
    for _ in range(4):
        assert not flights[1].paused
        flights[0].call.on_body(b"x" * MIB + b"\n")
    assert exchange.paused
    assert [flight.paused for flight in flights] == [True, True]
    paused_at_write: list[bool] = []
    sizes: list[int] = []

    async def write(message: ExchangeResponse) -> None:
        paused_at_write.append(flights[1].paused)
        sizes.append(message.ByteSize())

    writer = asyncio.ensure_future(exchange.write_to(write))
    await eventually(lambda: not exchange.paused, "the client has read enough")
    assert [flight.paused for flight in flights] == [False, False]
    assert paused_at_write[:3] == [True, True, True]
    assert max(sizes) < 2 * MIB
    for flight in flights:
        finish(flight)
    exchange.half_close()
    await writer


async def test_a_client_that_reads_nothing_may_send_no_more() -> None:
    _, exchange, flights = make(70, stream=False)
    for flight in flights:
        begin(flight)
        flight.call.on_body(b'"%b"' % (b"x" * MIB))
        finish(flight)
    reads = 0

    async def read() -> object:
        nonlocal reads
        reads += 1
        return None

    reader = asyncio.ensure_future(exchange.read_from(read))
    for _ in range(5):
        await asyncio.sleep(0)
    assert reads == 0
    messages: list[ExchangeResponse] = []
    await asyncio.gather(exchange.write_to(keep(messages)), reader)
    assert reads == 1
    assert sum(len(message.results) for message in messages) == 70
