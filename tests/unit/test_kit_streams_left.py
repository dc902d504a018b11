"""Streams whose caller leaves in the moment in which they fail: nobody is told, nothing is lost."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from podbay.v1 import errors_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay_kit.auth import Principal
from podbay_kit.errors import ServiceError
from podbay_kit.interceptors import PodbayInterceptor
from podbay_kit.rpc_rules import RULES, Rule, Who
from podbay_kit.tasks import ended

METHOD = "/podbay.v1.RegistryService/WatchModels"


class AnyToken:
    async def authenticate(self, token: str) -> Principal:
        return Principal(account="acme", token_id=token)


class Details:
    method = METHOD
    invocation_metadata = ()


class Context:
    """A call: what it was ended with, if it was."""

    def __init__(self) -> None:
        self.told: list[grpc.StatusCode] = []

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", "Bearer t"),)

    def peer(self) -> str:
        return "ipv4:127.0.0.1:4711"

    async def abort(self, code: grpc.StatusCode, *_rest: Any, **_named: Any) -> None:
        self.told.append(code)
        raise grpc.aio.AbortError


async def behaviour_of(work: Callable[[], Awaitable[None]]) -> Callable[[Any, Any], Any]:
    """Return a stream's handler as the server runs it."""

    async def watch(_request: Any, _context: Any) -> None:
        await work()

    async def inner(_details: Any) -> Any:
        return grpc.unary_stream_rpc_method_handler(
            watch, request_deserializer=pb.WatchModelsRequest.FromString
        )

    interceptor = PodbayInterceptor(
        AnyToken(), reject_unknown_fields=True, rules=dict.fromkeys(RULES, Rule(Who.ANY_TOKEN))
    )
    handler: Any = await interceptor.intercept_service(inner, Details())  # type: ignore[arg-type]
    behaviour: Callable[[Any, Any], Any] = handler.unary_stream
    return behaviour


async def log_of_leaving(error: Exception, caplog: pytest.LogCaptureFixture) -> str:
    """Let a caller leave in the moment in which a stream fails, and return what was logged."""
    outer: list[asyncio.Task[Any]] = []

    async def work() -> None:
        await asyncio.sleep(0)
        outer[0].cancel()
        raise error

    context, behaviour = Context(), await behaviour_of(work)
    with caplog.at_level(logging.ERROR):
        outer.append(asyncio.ensure_future(behaviour(b"", context)))
        await asyncio.wait(outer)
        assert outer.pop().cancelled()
        gc.collect()
        await asyncio.sleep(0)
    assert context.told == []
    return caplog.text


@pytest.mark.parametrize(
    "error",
    [
        ServiceError(errors_pb2.ERROR_REASON_REVISION_COMPACTED, "List again."),
        grpc.aio.InternalError("the write failed: the call is over"),
    ],
)
async def test_who_leaves_while_a_stream_fails_leaves_nothing_in_the_log(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    assert await log_of_leaving(error, caplog) == ""


async def test_a_defect_is_logged_also_where_its_caller_has_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = await log_of_leaving(KeyError("a detail"), caplog)
    assert f"a defect in {METHOD}" in text
    assert "a detail" in text
    assert "never retrieved" not in text


async def test_a_write_to_a_call_that_is_over_is_no_defect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        raise grpc.aio.InternalError("the write failed: the call is over")

    context, behaviour = Context(), await behaviour_of(work)
    with pytest.raises(grpc.aio.InternalError):
        await behaviour(b"", context)
    assert context.told == []
    assert caplog.text == ""


async def test_a_stream_that_fails_by_itself_is_told_why() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise ServiceError(errors_pb2.ERROR_REASON_REVISION_COMPACTED, "List again.")

    context, behaviour = Context(), await behaviour_of(work)
    with pytest.raises(grpc.aio.AbortError):
        await behaviour(b"", context)
    assert context.told == [grpc.StatusCode.OUT_OF_RANGE]


async def test_ended_tells_how_a_task_failed() -> None:
    async def fail() -> None:
        raise KeyError("x")

    failed, returned = asyncio.ensure_future(fail()), asyncio.ensure_future(asyncio.sleep(0))
    running = asyncio.ensure_future(asyncio.Event().wait())
    await asyncio.wait({failed, returned})
    assert isinstance(await ended(failed), KeyError)
    assert await ended(returned) is None
    assert await ended(running) is None
    assert running.cancelled()
