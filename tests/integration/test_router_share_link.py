"""What a router says to those who give shares of limits, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from podbay.v1 import session_manager_service_pb2 as pb
from podbay.v1.session_manager_service_pb2_grpc import (
    SessionManagerServiceServicer,
    add_SessionManagerServiceServicer_to_server,
)
from podbay_inference_router.share_link import ShareLink, Use
from podbay_inference_router.shares import LimitShares
from tests.support.session_manager import until


class Manager(SessionManagerServiceServicer):
    """Hears words, and answers when the test lets it."""

    def __init__(self) -> None:
        self.heard: list[pb.ShareLimitsRequest] = []
        self.answers = asyncio.Event()

    async def ShareLimits(  # type: ignore[override] # the stubs know no context.write()
        self, request_iterator: AsyncIterator[pb.ShareLimitsRequest], context: Any
    ) -> None:
        async for request in request_iterator:
            self.heard.append(request)
            if len(self.heard) == 1:
                await self.answers.wait()
            answer = pb.ShareLimitsResponse(number=len(self.heard), answered=request.number)
            answer.lease.FromSeconds(5)
            await context.write(answer)


async def test_a_second_word_is_said_when_the_first_was_answered() -> None:
    manager = Manager()
    server = grpc.aio.server()
    add_SessionManagerServiceServicer_to_server(manager, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    wanted = 0

    def uses() -> dict[str, Use]:
        return {"s": Use(0, wanted)}

    link = ShareLink(
        f"127.0.0.1:{port}", "secret", "r", 1, LimitShares(), uses, on_change=lambda: None
    )
    running = asyncio.create_task(link.run())
    try:
        await until(lambda: manager.heard)
        for wanted in range(1, 20):  # noqa: B007 # what the link asks for
            link.want()
            await asyncio.sleep(0.01)
        # Whoever does not lead can still end the stream with the name of the one that does.
        assert link._number == 1
        manager.answers.set()
        await until(lambda: len(manager.heard) > 1)
        assert manager.heard[1].uses[0].wanted == wanted
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await server.stop(0)
