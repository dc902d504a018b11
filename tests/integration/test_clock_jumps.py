"""The time of day is set by hours, both ways, while services run: nothing is lost by it."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.clock import JumpingClock
from tests.support.session_manager import Rig, session_manager, until


async def start_and_end_another(rig: Rig, service: str) -> None:
    """Have the session manager look at everything: a session comes up, and goes."""
    other = (await rig.create(service)).inferencesession.id
    await rig.ready(other)
    await rig.terminate(other)


@pytest.mark.parametrize("hours", [3, -3, 24 * 40])
async def test_what_runs_outlives_a_jump_and_what_is_new_starts(tmp_path: Path, hours: int) -> None:
    clock = JumpingClock()
    async with session_manager(tmp_path, clock=clock) as rig:
        service = rig.registry.add()
        session = (await rig.create(service)).inferencesession.id
        (before,) = (await rig.ready(session)).replicas
        for ahead in (timedelta(hours=hours), timedelta()):
            clock.ahead = ahead
            await start_and_end_another(rig, service)
            (after,) = (await rig.ready(session)).replicas
            assert (after.id, after.process_id) == (before.id, before.process_id)


async def test_what_is_being_started_comes_up_after_a_jump(tmp_path: Path) -> None:
    served, go = tmp_path / "served", tmp_path / "go"
    served.mkdir()
    (served / "ready").write_text("yes")
    script = (
        f"while [ ! -e {go} ]; do sleep 0.05; done; "
        f"exec {sys.executable} -m http.server --bind 127.0.0.1 --directory {served} $PORT"
    )
    clock = JumpingClock()
    async with session_manager(tmp_path / "data", clock=clock) as rig:
        session = (
            await rig.create(rig.registry.add(command=("/bin/sh", "-c", script)))
        ).inferencesession.id

        async def starting() -> bool:
            status = await rig.status(session)
            return any(replica.process_id for replica in status.replicas)

        await until(starting)
        for hours in (3, -3, 0):
            clock.ahead = timedelta(hours=hours)
            await start_and_end_another(rig, rig.registry.add())
        go.touch()
        (replica,) = (await rig.ready(session)).replicas
        assert replica.attempt == 1
