"""The way to another service, where that cannot be reached."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import grpc
from grpc.aio import AioRpcError, Metadata

from podbay_kit import service_link
from podbay_kit.service_link import ServiceLink


def failed(details: str) -> AioRpcError:
    return AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), details=details)


async def test_a_name_that_does_not_resolve_is_asked_for_anew(monkeypatch: Any) -> None:
    now = 100.0
    monkeypatch.setattr(service_link, "time", SimpleNamespace(monotonic=lambda: now))
    channels: list[grpc.aio.Channel] = []

    def make(channel: grpc.aio.Channel) -> SimpleNamespace:
        channels.append(channel)
        return SimpleNamespace(number=len(channels))

    link = ServiceLink("registry.podbay.test:7101", "registry", make)
    try:
        assert link.stub.number == 1
        # Who does not answer may answer on the same connection later.
        assert link.failed(failed("Connection refused")) == "UNAVAILABLE"
        assert link.stub.number == 1
        unresolved = failed("DNS resolution failed for registry.podbay.test:7101: no server")
        for _ in range(10):
            assert link.failed(unresolved) == "the name registry.podbay.test does not resolve"
            assert link.stub.number == 2
        now += 1.0
        link.failed(unresolved)
        assert link.stub.number == 3
    finally:
        await link.close()
