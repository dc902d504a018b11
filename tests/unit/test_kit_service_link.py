"""The way to another service, where that cannot be reached."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata, UnaryUnaryMultiCallable

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


class Clock:
    """A clock that a test moves."""

    now = 100.0


class Lost(UnaryUnaryMultiCallable[str, str]):
    """A method whose answer comes after some seconds, and is lost."""

    def __init__(self, clock: Clock, seconds: float, answer: str | None = None) -> None:
        self._clock = clock
        self._seconds = seconds
        self._answer = answer

    async def __call__(self, request: str, **_: Any) -> Any:
        assert request == "asked"
        self._clock.now += self._seconds
        return self._answer


@pytest.mark.parametrize(
    ("seconds", "limit", "code"),
    [
        (5.0, 5.0, grpc.StatusCode.DEADLINE_EXCEEDED),
        (4.99, 5.0, grpc.StatusCode.DEADLINE_EXCEEDED),
        (1.0, 5.0, grpc.StatusCode.INTERNAL),
        (1.0, None, grpc.StatusCode.INTERNAL),
    ],
)
async def test_success_without_a_message_is_a_failure(
    monkeypatch: Any, seconds: float, limit: float | None, code: grpc.StatusCode
) -> None:
    clock = Clock()
    monkeypatch.setattr(service_link, "time", SimpleNamespace(monotonic=lambda: clock.now))
    link = ServiceLink(
        "127.0.0.1:7101",
        "registry",
        lambda _: SimpleNamespace(
            GetModel=Lost(clock, seconds), GetTold=Lost(clock, seconds, "told")
        ),
    )
    try:
        with pytest.raises(AioRpcError) as failure:
            await link.stub.GetModel("asked", timeout=limit)
        assert failure.value.code() is code
        assert await link.stub.GetTold("asked", timeout=limit) == "told"
    finally:
        await link.close()
