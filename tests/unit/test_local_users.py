"""Who uses an installation: the last one to leave knows it, and the host waits for that one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from podbay.local.faults import LocalError
from podbay.local.users import Users
from tests.support.eventually import eventually_sync


def test_the_last_one_to_leave_knows_it(tmp_path: Path):
    users = Users(tmp_path)
    first, second, third = (users.enter(timeout=0) for _ in range(3))
    assert not second.leave()
    assert not first.leave()
    assert third.leave()
    assert users.enter(timeout=0).leave()


def test_the_host_waits_for_the_last_user_and_keeps_others_out(tmp_path: Path):
    users = Users(tmp_path)
    first, second = users.enter(timeout=0), users.enter(timeout=0)
    waiting = threading.Thread(target=users.wait_for_none, daemon=True)
    waiting.start()
    assert not first.leave()
    assert users.enter(timeout=0).leave() is False
    assert waiting.is_alive()
    assert second.leave()
    waiting.join(10)
    assert not waiting.is_alive()
    with pytest.raises(LocalError, match="have been stopping") as caught:
        users.enter(timeout=0)
    assert caught.value.reason == "DATA_DIR_IN_USE"


def test_a_user_that_is_killed_is_one_no_more(tmp_path: Path):
    program = (
        "import sys, time; from pathlib import Path; from podbay.local.users import Users;"
        "user = Users(Path(sys.argv[1])).enter(0); print('in', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    with other, other.stdout:
        assert other.stdout.readline() == "in\n"
        assert not Users(tmp_path).enter(timeout=0).leave()
        other.send_signal(signal.SIGKILL)
    assert Users(tmp_path).enter(timeout=0).leave()


def test_users_take_turns(tmp_path: Path):
    users = Users(tmp_path)
    user, done = users.enter(timeout=0), threading.Event()

    def leave() -> None:
        user.leave()
        done.set()

    with users.turn():
        leaving = threading.Thread(target=leave)
        leaving.start()
        assert not done.wait(0.05)
    leaving.join(10)
    eventually_sync(done.is_set, "the other took its turn")


def test_only_the_host_that_wrote_itself_down_ends_with_its_users(tmp_path: Path):
    users = Users(tmp_path)
    users.enter(timeout=0).leave()
    assert not users.is_host(os.getpid())
    users.name_host()
    assert users.is_host(os.getpid())
    assert not users.is_host(os.getpid() + 1)
