"""What waits for a time waits as long as before, when the time of day is set."""

import pytest

from podbay_session_manager.clock_jumps import JumpWatch, moved_along
from podbay_session_manager.records import ReplicaRecord


@pytest.mark.parametrize(
    ("now", "monotonic", "jump"),
    [(110.0, 15.0, 0.0), (111.5, 15.0, 0.0), (3710.0, 15.0, 3600.0), (-3490.0, 15.0, -3600.0)],
)
def test_a_jump_is_what_only_the_time_of_day_did(now: float, monotonic: float, jump: float) -> None:
    watch = JumpWatch()
    assert watch.jump(5000.0, 1.0) == 0.0  # nothing to compare with
    watch.accept(100.0, 5.0)
    assert watch.jump(now, monotonic) == jump
    assert watch.jump(now, monotonic) == jump  # until it is accepted
    watch.accept(now, monotonic)
    assert watch.jump(now + 1, monotonic + 1) == 0.0


def test_small_steps_do_not_add_up_to_a_jump_that_nobody_sees() -> None:
    watch = JumpWatch()
    watch.accept(100.0, 0.0)
    assert watch.jump(101.0 + 1.9, 1.0) == 0.0
    assert watch.jump(102.0 + 2.1, 2.0) == pytest.approx(2.1)


def test_only_what_waits_is_moved() -> None:
    def replica(name: str, **times: float) -> ReplicaRecord:
        return ReplicaRecord(
            id=name,
            session_id="s",
            index=0,
            attempt=1,
            driver="fake",
            created_at=1.0,
            transition_at=1.0,
            **times,
        )

    replicas = [
        replica("ready"),
        replica("starting", deadline=60.0),
        replica("later", retry_at=9.0),
    ]
    assert moved_along(replicas, 100.0) == [
        replica("starting", deadline=160.0),
        replica("later", retry_at=109.0),
    ]
