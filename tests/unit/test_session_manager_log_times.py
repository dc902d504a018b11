"""When the lines of a log were written."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podbay_session_manager.drivers import keeper, log_times
from podbay_session_manager.drivers.log_files import append_log, read_log_files
from podbay_session_manager.drivers.log_times import note_time, times_file, times_of
from podbay_session_manager.logs import Line, split_lines, timed

SECOND = 1_000_000_000


class Clock:
    """The keeper's clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ns = 1_000 * SECOND
        monkeypatch.setattr(keeper.time, "time_ns", lambda: self.ns)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def lines_of(folder: Path) -> list[Line]:
    chunk = read_log_files(folder, 0, 1 << 30)
    assert chunk is not None
    found, _ = split_lines(chunk.data, chunk.offset, final=True)
    return timed(found, chunk.times, chunk.offset + len(chunk.data))


def test_each_line_has_the_time_of_its_end(tmp_path: Path, clock: Clock) -> None:
    log = keeper._Log(str(tmp_path))
    log.write(b"one\ntwo ")
    clock.ns += 3 * SECOND
    log.write(b"goes on\n")
    clock.ns += SECOND // 1000  # within the step of the notes
    log.write(b"three\n")
    clock.ns += SECOND
    log.write(b"no end")
    assert [(line.text, line.time) for line in lines_of(tmp_path)] == [
        ("one", 1000.0),
        ("two goes on", 1003.0),
        ("three", 1003.0),
        ("no end", 1004.001),
    ]


def test_a_clock_that_is_set_back_is_noted(tmp_path: Path, clock: Clock) -> None:
    log = keeper._Log(str(tmp_path))
    log.write(b"late\n")
    clock.ns -= 500 * SECOND
    log.write(b"early\n")
    assert [line.time for line in lines_of(tmp_path)] == [1000.0, 500.0]


def test_notes_are_bounded_with_the_log(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "TIMES_BYTES", 16 * 50)
    log = keeper._Log(str(tmp_path))
    for number in range(500):
        clock.ns = (1000 + number) * SECOND
        log.write(b"%d\n" % number)
    assert len(list(tmp_path.iterdir())) == 4
    assert sum(path.stat().st_size for path in tmp_path.glob("*.times")) <= 2 * 16 * 50
    lines = lines_of(tmp_path)
    assert 50 <= len(lines) <= 100
    assert all(line.time == 1000 + int(line.text) for line in lines)


def test_a_note_that_cannot_be_written_leaves_times_unknown(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = keeper._Log(str(tmp_path))
    log.write(b"one\n")
    write = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) == 16:
            return write(file, data[:5])
        return write(file, data)

    monkeypatch.setattr(keeper.os, "write", full)
    clock.ns += SECOND
    log.write(b"two\n")
    # Rather no time than that of a line before.
    assert [line.time for line in lines_of(tmp_path)] == [None, None]

    def none(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(keeper.os, "write", none)
    log.write(b"lost\n")
    assert [line.text for line in lines_of(tmp_path)] == ["one", "two"]


def test_a_log_without_notes_has_no_times(tmp_path: Path) -> None:
    (tmp_path / f"{0:020d}").write_bytes(b"old\n")
    assert lines_of(tmp_path) == [Line("old", 4, None)]


def test_what_this_process_appends_has_times(tmp_path: Path) -> None:
    before = time.time()
    append_log(tmp_path, "one\n")
    append_log(tmp_path, "two\n")
    first, second = lines_of(tmp_path)
    assert first.time is not None
    assert second.time is not None
    assert before - 0.001 <= first.time <= second.time <= time.time() + 0.001


@given(
    notes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 10**6)), max_size=60),
    start=st.integers(0, 220),
    length=st.integers(1, 220),
    block=st.integers(1, 5),
)
def test_a_part_of_the_notes_says_what_all_of_them_say(
    tmp_path_factory: pytest.TempPathFactory,
    notes: list[tuple[int, int]],
    start: int,
    length: int,
    block: int,
) -> None:
    notes.sort(key=lambda note: note[0])
    path = tmp_path_factory.mktemp("notes") / "log"
    times_file(path).touch()
    for position, micros in notes:
        note_time(path, position, micros * 1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_times, "_BLOCK", block)
        found = times_of(path, start, start + length)
    assert [position for position, _ in found] == sorted(position for position, _ in found)
    for byte in range(start, start + length):
        before = [micros / 10**6 for position, micros in notes if position <= byte]
        got = [each for position, each in found if position <= byte]
        assert (got[-1] if got else None) == (before[-1] if before else None)
