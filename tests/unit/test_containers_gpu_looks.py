"""Looks into containers: which of them mean that GPUs have vanished."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from podbay_kit.tasks import TaskSet
from podbay_session_manager.drivers.containers.engine import EngineError
from podbay_session_manager.drivers.containers.gpu_looks import GpuLooks
from podbay_session_manager.drivers.containers.labels import GENERATION
from podbay_session_manager.drivers.contract import DriverUnreachableError

NVML = "Failed to initialize NVML: Unknown Error"
Answer = tuple[int, str] | Exception


class Engine:
    """An engine whose programs end as a test says."""

    def __init__(self) -> None:
        self.answer: Answer = (0, "GPU 0: Tesla T4")
        self.asked: list[str] = []

    def execute(self, container: str, command: Sequence[str]) -> tuple[int, str]:
        self.asked.append(container)
        assert command == ("nvidia-smi", "-L")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def stream(self, work: Callable[[Any], Any], *, silence: float) -> Any:
        return work(self)


def container(
    identity: str = "c1", *, generation: str = "2", gpus: bool = True
) -> Mapping[str, Any]:
    return {
        "Id": identity,
        "Config": {"Labels": {GENERATION: generation}},
        "HostConfig": {"DeviceRequests": [{"DeviceIDs": ["0"]}] if gpus else None},
    }


async def looked(
    answers: Sequence[Answer], of: Mapping[str, Any], *, seconds: float = 0.0
) -> tuple[str, Engine, int]:
    """Look once for each answer; return the trouble, the engine, and how often there was news."""
    engine, news, tasks = Engine(), list[int](), TaskSet()
    looks = GpuLooks(engine, "2", seconds, tasks, lambda: news.append(1))  # type: ignore[arg-type] # what it needs of it
    for answer in answers:
        engine.answer = answer
        looks.look_soon([of])
        if looks._task is not None:
            await asyncio.wait({looks._task})
    await tasks.close()
    return looks.trouble(of["Id"]), engine, len(news)


@pytest.mark.parametrize(
    ("answers", "of", "lost"),
    [
        ([(0, ""), (255, NVML)], container(), True),
        # Whatever it says, where it has worked before.
        ([(0, ""), (9, "No devices were found")], container(), True),
        ([(0, ""), (0, "")], container(), False),
        # It never worked: that tells nothing of the GPUs.
        ([(255, NVML), (255, NVML)], container(), False),
        # An earlier session manager made it; nobody knows whether it worked then.
        ([(255, NVML)], container(generation="1"), True),
        ([(1, "no such option")], container(generation="1"), False),
        # It has no such program, or has ended, or hangs.
        ([(0, ""), EngineError(409, "is not running")], container(), False),
        ([(0, ""), DriverUnreachableError("did not answer")], container(), False),
        ([(0, ""), (255, NVML)], container(gpus=False), False),
    ],
)
async def test_what_a_look_means(
    answers: Sequence[Answer], of: Mapping[str, Any], lost: bool
) -> None:
    trouble, engine, news = await looked(answers, of)
    assert bool(trouble) is lost
    assert news == int(lost)
    if lost and isinstance(answers[-1], tuple):
        assert f"exit code {answers[-1][0]}: {answers[-1][1]}" in trouble
    assert bool(engine.asked) is bool(of["HostConfig"]["DeviceRequests"])


async def test_looks_keep_their_pause() -> None:
    _, engine, _ = await looked([(0, "")] * 5, container(), seconds=300.0)
    assert engine.asked == ["c1"]
