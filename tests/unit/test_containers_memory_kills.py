"""Containers that were killed: which of them ran out of memory, also where that is told late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from podbay_session_manager.drivers.containers.engine import EngineError
from podbay_session_manager.drivers.containers.memory_kills import with_memory_kill


class Engine:
    """An engine that has an event of this, or not."""

    def __init__(self, answer: bool | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[str, float, float]] = []

    def ran_out_of_memory(self, container: str, since: float, until: float) -> bool:
        self.asked.append((container, since, until))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def stream(self, work: Callable[[Any], Any], *, silence: float) -> Any:
        assert silence > 0
        return work(self)


def killed(memory: int = 64 << 20, **state: Any) -> dict[str, Any]:
    return {
        "Id": "c1",
        "HostConfig": {"Memory": memory},
        "State": {
            "Status": "exited",
            "ExitCode": 137,
            "OOMKilled": False,
            "StartedAt": "1970-01-01T00:00:10.123456789Z",
            "FinishedAt": "1970-01-01T00:00:20.5Z",
            **state,
        },
    }


@pytest.mark.parametrize("answer", [True, False])
async def test_an_engine_that_has_not_said_why_is_asked_for_its_events(answer: bool) -> None:
    engine = Engine(answer)
    details = await with_memory_kill(engine, killed())  # type: ignore[arg-type] # what it needs of it
    assert details == killed(OOMKilled=answer)
    ((container, since, until),) = engine.asked
    assert (container, since) == ("c1", pytest.approx(10.123456))
    assert 20.5 < until < 22


@pytest.mark.parametrize(
    "details",
    [
        killed(OOMKilled=True),
        killed(ExitCode=1),
        killed(ExitCode=0),
        killed(Status="running"),
        killed(Status="created", StartedAt="0001-01-01T00:00:00Z"),
        killed(memory=0),
    ],
)
async def test_nobody_is_asked_about_other_ends(details: dict[str, Any]) -> None:
    engine = Engine(answer=True)
    assert await with_memory_kill(engine, details) is details  # type: ignore[arg-type] # as above
    assert engine.asked == []


async def test_an_engine_that_refuses_leaves_it_open() -> None:
    engine = Engine(EngineError(500, "no"))
    details = killed()
    assert await with_memory_kill(engine, details) is details  # type: ignore[arg-type] # as above
