"""Networks of sessions: other addresses where the engine's own will not do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from podbay_session_manager.drivers.containers.engine import EngineError
from podbay_session_manager.drivers.containers.labels import Ownership
from podbay_session_manager.drivers.containers.networks import SessionNetworks

NONE_LEFT = (
    "could not find an available, non-overlapping IPv4 address pool among the defaults to assign "
    "to the network"
)
KILLED_BEFORE = "failed to allocate gateway (10.1.0.1): Address already in use"
SAME = "Pool overlaps with other one on this address space"


class Engine:
    """An engine that refuses networks as a test says, one after the other."""

    def __init__(self, *refusals: str) -> None:
        self.refusals = list(refusals)
        self.asked: list[str] = []

    def networks(self, labels: dict[str, str]) -> list[Any]:
        if labels:
            return []
        return [{"IPAM": {"Config": [{"Subnet": "10.9.0.0/26"}]}}, {"IPAM": {"Config": None}}]

    def create_network(self, name: str, *, subnet: str, **options: Any) -> str:
        self.asked.append(subnet)
        if self.refusals:
            raise EngineError(500, self.refusals.pop(0))
        return "made"

    async def ask(self, work: Callable[[Any], Any]) -> Any:
        return work(self)

    tell = ask


async def take(engine: Engine) -> str:
    networks = SessionNetworks(
        engine,  # type: ignore[arg-type] # what it needs of it
        Ownership("i" * 32, "1"),
        published=False,
        subnets="10.9.0.0/24",
    )
    return await networks.take("s1", "r1", egress=False)


@pytest.mark.parametrize("refusal", [NONE_LEFT, KILLED_BEFORE, SAME])
async def test_addresses_that_cannot_be_had_are_left_to_others(refusal: str) -> None:
    engine = Engine(refusal, SAME, KILLED_BEFORE)
    assert await take(engine) == "made"
    assert engine.asked == ["", "10.9.0.64/26", "10.9.0.128/26", "10.9.0.192/26"]


async def test_where_none_can_be_had_at_all_that_is_told() -> None:
    engine = Engine(NONE_LEFT, *[SAME] * 20)
    with pytest.raises(EngineError, match="no subnet left"):
        await take(engine)
    assert len(engine.asked) == 4


async def test_another_refusal_is_told_at_once() -> None:
    engine = Engine("the disk is full")
    with pytest.raises(EngineError, match="the disk is full"):
        await take(engine)
    assert engine.asked == [""]
