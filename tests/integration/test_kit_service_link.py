"""The way to another service, with a real connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import grpc
import pytest

from podbay_kit.service_link import ServiceLink


async def _echo(request: bytes, _context: object) -> bytes:
    return request


def _unreadable(_: bytes) -> str:
    raise ValueError("not of this version")


def _stub(channel: grpc.aio.Channel) -> SimpleNamespace:
    calls: dict[str, Callable[..., Awaitable[object]]] = {
        "Read": channel.unary_unary("/podbay.test/Echo"),
        "Unreadable": channel.unary_unary("/podbay.test/Echo", response_deserializer=_unreadable),
    }
    return SimpleNamespace(**calls)


async def test_an_answer_that_cannot_be_read_is_a_failure() -> None:
    server = grpc.aio.server()
    methods = {"Echo": grpc.unary_unary_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("podbay.test", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    link = ServiceLink(f"127.0.0.1:{port}", "registry", _stub)
    try:
        assert await link.stub.Read(b"told", timeout=10) == b"told"
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await link.stub.Unreadable(b"told", timeout=10)
        assert failure.value.code() is grpc.StatusCode.INTERNAL
    finally:
        await link.close()
        await server.stop(0)
